"""A collector of which all is known: does what lines on stdin tell it, and answers each with a line of JSON.

    work      keeps objects and collects, each generation in turn, until the next line comes: then answers with what
              `gc.get_stats()` rose by, and with how long each collection took at least and at most, in nanoseconds, by generation
    storm     collects as fast as it can until the next line comes; no answer
    calm      works without a collection until the next line comes; no answer
    fork      forks a child that waits: answers with its pid
    collect   the last child collects once: answers with its pid when it has
    exec      replaces the process by a fresh one
    stop      does nothing; no answer
    quit      ends, as the end of input does

Nothing is collected unasked. Before READY it works without a collection, so that these are known to be rare.
"""

import gc
import json
import os
import select
import sys
import time

KEPT = []


class Commands:
    """Lines of stdin, read without a buffer that would hide them from select."""

    def __init__(self):
        self.pending = b""

    def is_there(self):
        return b"\n" in self.pending or bool(select.select([0], [], [], 0)[0])

    def next(self):
        while b"\n" not in self.pending:
            data = os.read(0, 4096)
            if not data:
                return "quit"
            self.pending += data
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode()


def spend(seconds):
    """Works for so much CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        json.loads(json.dumps(list(range(50))))


def answer(fields):
    print("ANSWER", json.dumps(fields), flush=True)


class Node:
    """Garbage whose end takes a while."""

    def __init__(self, ended):
        self.self = self
        self.ended = ended

    def __del__(self):
        begin = time.monotonic_ns()
        spend(0.0001)
        self.ended.append(time.monotonic_ns() - begin)


def work(commands):
    # Of generation n the collections take longer than what ends in them, and less long than the calls that ask for them.
    least, most = [[], [], []], [[], [], []]
    before = gc.get_stats()
    n = 0
    while n < 3 or not commands.is_there():
        KEPT.extend({"id": n, "of": i} for i in range(100))
        spend(0.02)
        Node(least[n % 3])
        begin = time.monotonic_ns()
        gc.collect(n % 3)
        most[n % 3].append(time.monotonic_ns() - begin)
        n += 1
    rose = [{key: new[key] - old[key] for key in new} for old, new in zip(before, gc.get_stats())]
    answer({"stats": rose, "least": least, "most": most})


class Child:
    def __init__(self):
        told, self.tell = os.pipe()
        self.done, done = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.tell)
            while os.read(told, 1):
                gc.collect()
                os.write(done, b".")
            os._exit(0)
        os.close(told)

    def collect(self):
        os.write(self.tell, b".")
        os.read(self.done, 1)


def main():
    gc.disable()
    spend(1.5)
    child = None
    commands = Commands()
    print("READY", json.dumps({"pid": os.getpid()}), flush=True)
    while True:
        command = commands.next()
        if command == "work":
            work(commands)
        elif command == "storm":
            while not commands.is_there():
                for _ in range(100):
                    gc.collect(0)
        elif command == "calm":
            while not commands.is_there():
                spend(0.02)
        elif command == "fork":
            child = Child()
            answer({"pid": child.pid})
        elif command == "collect":
            child.collect()
            answer({"pid": child.pid})
        elif command == "exec":
            os.execv(sys.executable, [sys.executable, *sys.argv])
        elif command == "quit":
            return


if __name__ == "__main__":
    main()
