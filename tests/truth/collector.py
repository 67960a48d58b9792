"""Collections with their truth: automatic and explicit ones of each generation, counted by `gc.get_stats()` itself.

Prints READY, waits for a line, works, prints DONE with what each generation's counters rose by, and waits for `quit`.
With --threads the garbage comes from four threads at once.
"""

import gc
import json
import os
import sys
import threading


class Node:
    def __init__(self):
        self.self = self


def garbage(rounds):
    for _ in range(rounds):
        for _ in range(50):
            Node()
        kept = [[] for _ in range(300)]
        del kept


def work(crew):
    threads = [threading.Thread(target=garbage, args=(400,)) for _ in range(crew)]
    for thread in threads:
        thread.start()
    garbage(400)
    for thread in threads:
        thread.join()
    for generation in (0, 1, 2, 2, 1, 0, 0):
        Node()
        gc.collect(generation)
    gc.collect()


def main():
    crew = 4 if "--threads" in sys.argv else 0
    work(crew)
    gc.disable()
    print("READY", json.dumps({"pid": os.getpid()}), flush=True)
    sys.stdin.readline()
    before = gc.get_stats()
    gc.enable()
    work(crew)
    gc.disable()
    after = gc.get_stats()
    rose = [{key: new[key] - old[key] for key in new} for old, new in zip(before, after)]
    print("DONE", json.dumps(rose), flush=True)
    sys.stdin.readline()
    os._exit(0)


if __name__ == "__main__":
    main()
