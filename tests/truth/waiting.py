"""What waits for a collection and what does not: each 30 ms a text that a dict keeps, or (--cycles) eight of a cycle that nothing holds any
more, and that takes the place of a young object from before.

Says READY as the bundled services do, and begins when a line comes; the next line ends it, and is answered with how many objects the
first collection found. None comes before: the threshold is far off.
"""

import gc
import json
import os
import select
import sys

KEPT = {}


def keep(n, older):
    KEPT[n] = f"kept {n} " * 20


def drop(n, older):
    if older:
        older.pop()
    cycle = []
    cycle.append(cycle)
    for part in range(8):
        cycle.append(f"dropped {n} {part} " * 20)


def main(step):
    gc.collect()
    gc.set_threshold(100_000)
    older = [[] for _ in range(1500)]
    print("READY", json.dumps({"pid": os.getpid(), "leaks": []}), flush=True)
    while os.read(0, 1) != b"\n":
        pass
    n = 0
    while not select.select([0], [], [], 0.03)[0]:
        step(n, older)
        n += 1
    print("ANSWER", json.dumps({"steps": n, "found": gc.collect()}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(drop if "--cycles" in sys.argv else keep)
