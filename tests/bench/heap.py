"""What a census costs, beside a plain read of the same memory and the tools that run inside the process.

`heap.py LEAKTRACE PLAIN_READ OBJECTS ROUNDS` starts a process with a heap of about OBJECTS objects and prints one JSON object.
objgraph and guppy3 are measured where they can be imported.
"""

import gc
import json
import os
import subprocess
import sys
import time

from common import populate, run

WORK_SECONDS = 10.0


def work(seconds):
    """Rounds of ordinary work in a time, and what they took of the processor."""
    done, end, cpu = 0, time.monotonic() + seconds, time.thread_time()
    while time.monotonic() < end:
        kept = [{"key": str(i)} for i in range(1000)]
        del kept
        done += 1
    return done, time.thread_time() - cpu


def objgraph_seconds():
    import objgraph

    begun = time.perf_counter()
    objgraph.typestats()
    return time.perf_counter() - begun


def guppy_seconds():
    from guppy import hpy

    tool = hpy()
    begun = time.perf_counter()
    repr(tool.heap())
    return time.perf_counter() - begun


def optional(measure):
    try:
        return measure()
    except ImportError:
        return None


def target(objects):
    gc.disable()
    kept = populate(objects)
    commands = {"objgraph": lambda: optional(objgraph_seconds), "guppy": lambda: optional(guppy_seconds)}
    commands["work"] = lambda: work(WORK_SECONDS)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(commands[line.strip()]()), flush=True)
    del kept


def measure(leaktrace, plain_read, objects, rounds):
    process = subprocess.Popen(
        [sys.executable, __file__, "target", objects], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()

    def ask(command):
        process.stdin.write(command + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    results = []
    for _ in range(int(rounds)):
        text, _, usage = run([leaktrace, "heap", "--pid", str(process.pid), "--json", "-"])
        census = json.loads(text)
        _, plain, _ = run([plain_read, str(process.pid)])
        plain_bytes, plain_seconds = plain.split()
        alone, alone_cpu = ask("work")
        process.stdin.write("work\n")
        process.stdin.flush()
        run([leaktrace, "heap", "--pid", str(process.pid), "--json", "-"])
        watched, watched_cpu = json.loads(process.stdout.readline())
        results.append(
            {
                "heap_bytes": census["totals"]["read_bytes"],
                "objects": census["totals"]["objects"],
                "seconds": census["seconds"],
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "peak_rss_bytes": usage.ru_maxrss * 1024,
                "plain_bytes": int(plain_bytes),
                "plain_seconds": float(plain_seconds),
                "work_slowdown": alone / alone_cpu / (watched / watched_cpu),
            }
        )
    answer = {"python": census["python"], "rounds": results, "objgraph_seconds": ask("objgraph"), "guppy_seconds": ask("guppy")}
    process.stdin.close()
    process.wait()
    print(json.dumps(answer))


if sys.argv[1] == "target":
    target(int(sys.argv[2]))
else:
    measure(*sys.argv[1:])
