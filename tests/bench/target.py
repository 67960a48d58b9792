"""A process to measure: does units of one workload when told, and says how many it did and what CPU time they took.

    target.py WORKLOAD

Prints `READY PID`, then answers each line on stdin by one line of JSON:

    run SECONDS     does units for so long
    storm           does units until the next line, and answers then
    tracemalloc N   starts tracemalloc with N frames; 0 stops it
    hold N          makes N objects and keeps them
    drop            lets go of them
    quit            ends; so does the end of stdin

Pure standard library.
"""

import importlib
import json
import os
import select
import sys
import time
import tracemalloc

STDIN = 0
# Between two looks at stdin in a storm: long enough that the look costs nothing beside the work.
POLL_SECONDS = 0.02


class Lines:
    """Lines of stdin. Reads the descriptor itself: a buffered reader would hide lines from select."""

    def __init__(self):
        self.pending = b""

    def waiting(self):
        return b"\n" in self.pending or bool(select.select([STDIN], [], [], 0)[0])

    def next(self):
        while b"\n" not in self.pending:
            data = os.read(STDIN, 4096)
            if not data:
                return "quit"
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        return line.decode()


def work(unit, over):
    """Does units until `over()`, which is asked now and then; what they took."""
    units, wall, cpu = 0, time.perf_counter(), time.process_time()
    while True:
        pause = time.perf_counter() + POLL_SECONDS
        while time.perf_counter() < pause:
            unit()
            units += 1
        if over():
            break
    return {"units": units, "cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def until(end):
    return lambda: time.perf_counter() >= end


def main(workload):
    unit = importlib.import_module(workload).unit
    lines = Lines()
    held = []
    work(unit, until(time.perf_counter() + 0.2))  # the interpreter specialises its code
    print("READY", os.getpid(), flush=True)
    while True:
        command, *arguments = lines.next().split()
        answer = {}
        if command == "run":
            answer = work(unit, until(time.perf_counter() + float(arguments[0])))
        elif command == "storm":
            answer = work(unit, lines.waiting)
            lines.next()
        elif command == "tracemalloc":
            frames = int(arguments[0])
            if frames:
                tracemalloc.start(frames)
            else:
                tracemalloc.stop()
        elif command == "hold":
            held = [object() for _ in range(int(arguments[0]))]
            answer = {"held": len(held)}
        elif command == "drop":
            held = []
        else:
            return
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
