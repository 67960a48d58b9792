"""What waits for a collection and what does not: each 50 ms a text that a dict keeps, or (--cycles) one of a cycle that nothing holds any more.

Says READY as the bundled services do, and begins when a line comes; the next line ends it, and is answered with how many objects the
first collection found. None comes before: the threshold is far off.
"""

import gc
import json
import os
import select
import sys

KEPT = {}


class Cycle:
    __slots__ = ("itself", "text")


def keep(n):
    KEPT[n] = f"kept {n} " * 20


def drop(n):
    cycle = Cycle()
    cycle.itself, cycle.text = cycle, f"dropped {n} " * 20


def main(step):
    gc.collect()
    gc.set_threshold(100_000)
    print("READY", json.dumps({"pid": os.getpid(), "leaks": []}), flush=True)
    os.read(0, 4096)
    n = 0
    while not select.select([0], [], [], 0.05)[0]:
        step(n)
        n += 1
    print("ANSWER", json.dumps({"steps": n, "found": gc.collect()}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(drop if "--cycles" in sys.argv else keep)
