"""The truth script: does the workload once it is told to, in a process of known state.

    truth.py                            waits for a line, works, prints DONE, waits for `quit`
    truth.py --tracemalloc 25 FILE      the same under tracemalloc with 25 frames; writes live memory by line to FILE
    truth.py --counter SO FILE          the same with the counter (counter.c); writes the number of calls to FILE
    truth.py --lines SO FILE            the same with the counter's own account of live blocks by line (3.11 only)

Deterministic. Everything has run once before READY: imports, caches and free lists are as they will stay.
"""

import ctypes
import gc
import json
import os
import sys
import tracemalloc  # in every mode: what an import interns decides when the table of interned strings grows
import warnings

import workload

SURVIVORS = 2000


def say(word, **fields):
    print(word, json.dumps(fields), flush=True)


def merge(table, key, size, blocks=1):
    entry = table.setdefault(key, {"bytes": 0, "blocks": 0})
    entry["bytes"] += size
    entry["blocks"] += blocks


def by_line(snapshot, tracemalloc_file):
    """Live memory by innermost line, CPython's allocator (`lines`) apart from other domains (`foreign`: numpy's data), and by stack."""
    lines, foreign, stacks = {}, {}, {}
    for trace in snapshot.traces:
        frames = [f"{frame.filename}:{frame.lineno}" for frame in reversed(trace.traceback)]
        if trace.traceback[-1].filename == tracemalloc_file:
            continue
        merge(lines if trace.domain == 0 else foreign, frames[0], trace.size)
        if trace.domain == 0:
            merge(stacks, "\n".join(frames), trace.size)
    return {"lines": lines, "foreign": foreign, "stacks": stacks}


def write(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file)


def main(arguments):
    mode = arguments[0] if arguments else None
    warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that are kept, and never awaited
    workload.run(60)
    workload.run(60)
    workload.NATIVE.clear()
    if mode and mode != "--tracemalloc":
        counter = ctypes.PyDLL(arguments[1])
        counter.leaktrace_dump.argtypes = [ctypes.c_char_p]
        counter.leaktrace_install(mode == "--lines")
    gc.collect()
    say("READY", pid=os.getpid(), survivors=SURVIVORS, numpy=workload.numpy is not None)
    sys.stdin.readline()

    if mode == "--tracemalloc":
        tracemalloc.start(int(arguments[1]))
    elif mode:
        counter.leaktrace_start()
    kept = workload.run(SURVIVORS)
    if mode == "--tracemalloc":
        snapshot = tracemalloc.take_snapshot()
        tracemalloc.stop()
        write(arguments[2], by_line(snapshot, tracemalloc.__file__))
    elif mode:
        counter.leaktrace_stop()
        if counter.leaktrace_dump(arguments[2].encode()):
            raise OSError(f"cannot write {arguments[2]}")
    say("DONE", phases=len(kept), native=workload.NATIVE)
    while sys.stdin.readline().strip() not in ("", "quit"):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
