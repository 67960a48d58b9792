"""Collections of several interpreters, each counted by its own `gc.get_stats()`.

Prints READY and waits for a line; then the main interpreter and two others, each in a thread of its own and at once where they
have a GIL of their own (3.12 and later), make garbage and collect; DONE with what the counters of each rose by, and waits to be told to end.
"""

import gc
import json
import os
import sys
import threading

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

OTHERS = 2
# In each interpreter: before and after, automatic collection is off, so that nothing happens that is not counted.
BEFORE = """
import gc, json, os
gc.disable()
class Node:
    def __init__(self):
        self.self = self
before = gc.get_stats()
"""
WORK = """
gc.enable()
for _ in range({rounds}):
    for _ in range(50):
        Node()
    kept = [[] for _ in range(300)]
    del kept
for generation in (0, 1, 2, 2, 1, 0, 0)[:{explicit}]:
    Node()
    gc.collect(generation)
gc.disable()
"""
AFTER = """
after = gc.get_stats()
rose = json.dumps([{key: new[key] - old[key] for key in new} for old, new in zip(before, after)])
"""
SEND = "os.write({pipe}, (rose + chr(10)).encode())"


def run(interpreter, code):
    if hasattr(interpreters, "exec"):
        interpreters.exec(interpreter, code)
    else:
        interpreters.run_string(interpreter, code)


def main():
    exec(BEFORE, globals())
    others = [interpreters.create() for _ in range(OTHERS)]
    pipes = [os.pipe() for _ in others]
    for other in others:
        run(other, BEFORE)
    go = threading.Event()

    def work(number):
        go.wait()
        run(others[number], WORK.format(rounds=200 + 100 * number, explicit=3 + number))
        run(others[number], AFTER)
        run(others[number], SEND.format(pipe=pipes[number][1]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(OTHERS)]
    for thread in threads:
        thread.start()
    exec("before = gc.get_stats()", globals())
    print('READY {"pid": %d}' % os.getpid(), flush=True)
    sys.stdin.readline()
    go.set()
    exec(WORK.format(rounds=400, explicit=7), globals())
    for thread in threads:
        thread.join()
    # 3.8 has one collector for all, so not before the others are done.
    exec(AFTER, globals())
    told = [json.loads(os.read(pipe[0], 1 << 16)) for pipe in pipes]
    print("DONE", json.dumps({"main": json.loads(rose), "others": told}), flush=True)
    sys.stdin.readline()
    os._exit(0)


main()
