"""Memory of many kinds, by what is built into every interpreter alone.

    kept.py                      says READY, waits for a line, works, says DONE, waits for another
    kept.py --tracemalloc 1 FILE the same under tracemalloc; writes live memory by line to FILE
"""

import _tracemalloc  # what tracemalloc itself needs more is no part of the smallest interpreters
import collections
import io
import json
import os
import sys
import threading

SURVIVORS = 1000
VARIABLES = 500
VALUE = "v" * 200


class Plain:
    def __init__(self, number):
        self.number = number
        self.text = "text %d" % number


class Slotted:
    __slots__ = ("left", "right")

    def __init__(self, left, right):
        self.left = left
        self.right = right


def closure(number):
    return lambda: number


def generator(number):
    yield number
    yield number + 1


def caught(number):
    try:
        raise ValueError(number)
    except ValueError as error:
        return error


def room(count):
    """Made before anything is counted: a few lists that may come from a free list are too few to compare."""
    return [[None] * count for _ in range(14)]


def run(count, rows):
    """Each line of the loop keeps some blocks, and drops others."""
    strings, small, large, arrays, lists, tables, sets, plain, slotted, functions, generators, errors, queues, files = rows
    growing = []
    for number in range(count):
        strings[number] = "string %d" % (number + 1000)
        small[number] = b"%100d" % number
        large[number] = b"%3000d" % number
        arrays[number] = bytearray(200)
        arrays[number].extend(b"x" * 700)
        lists[number] = [number + 0.5, number + 0.25]
        lists[number].append(number + 0.125)
        tables[number] = {number: None, "key": None}
        tables[number]["table %d" % number] = None
        sets[number] = {number, -number, "set"}
        plain[number] = Plain(number + 300)
        slotted[number] = Slotted(number + 2**40, number + 2**70)
        functions[number] = closure(number + 300)
        generators[number] = generator(number + 300)
        next(generators[number])
        errors[number] = caught(number + 300)
        queues[number] = collections.deque((number,))
        files[number] = io.BytesIO(b"%900d" % number)
        growing.append(b"%600d" % number)
        b"%700d" % number
    return rows, growing


def in_thread(count, rows):
    kept = []
    thread = threading.Thread(target=lambda: kept.extend(run(count, rows)))
    thread.start()
    thread.join()
    return kept


def variables(turn):
    """The C library keeps these, in memory that it asks its own allocator for."""
    for number in range(VARIABLES):
        os.putenv("KEPT_%d_%04d" % (turn, number), VALUE)


def by_line(traces):
    lines = {}
    for _, size, frames, *_ in traces:
        file, line = frames[0]
        entry = lines.setdefault(f"{file}:{line}", {"bytes": 0, "blocks": 0})
        entry["bytes"] += size
        entry["blocks"] += 1
    return lines


def main(arguments):
    run(60, room(60)), in_thread(60, room(60)), variables(0)
    run(60, room(60)), in_thread(60, room(60))
    rooms = room(SURVIVORS), room(SURVIVORS)
    print('READY {"pid": %d}' % os.getpid(), flush=True)
    sys.stdin.readline()
    if arguments:
        _tracemalloc.start(int(arguments[1]))
    kept = [run(SURVIVORS, rooms[0]), in_thread(SURVIVORS, rooms[1])]
    variables(len(kept) - 1)
    if arguments:
        traces = _tracemalloc._get_traces()
        _tracemalloc.stop()
        with open(arguments[2], "w", encoding="utf-8") as file:
            json.dump({"lines": by_line(traces), "foreign": {}, "stacks": {}}, file)
    # By hand: the encoder that is no extension leaves cycles behind.
    size = VARIABLES * len("KEPT_1_0000=" + VALUE + "\0")
    print('DONE {"native": {"variables": {"blocks": %d, "bytes": %d}}}' % (VARIABLES, size), flush=True)
    sys.stdin.readline()
    os._exit(0)


main(sys.argv[1:])
