"""Allocations of two interpreters at once, each with an allocator of its own where the version has that (3.12 and later).

Prints READY and waits for a line; then the main interpreter and another, in a thread of its own, allocate BLOCKS blocks each;
DONE, and waits to be told to end.
"""

import os
import sys
import threading

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

CODE = """
import time
kept = []
def work_of_{who}():
    for n in range({blocks}):
        kept.append(b"%300d" % n)
        time.sleep(0)
work_of_{who}()
"""


def run(interpreter, code):
    if hasattr(interpreters, "exec"):
        interpreters.exec(interpreter, code)
    else:
        interpreters.run_string(interpreter, code)


def main(blocks):
    other = interpreters.create()
    go = threading.Event()

    def work():
        go.wait()
        run(other, CODE.format(who="other", blocks=blocks))

    thread = threading.Thread(target=work)
    thread.start()
    print('READY {"pid": %d}' % os.getpid(), flush=True)
    sys.stdin.readline()
    go.set()
    exec(CODE.format(who="main", blocks=blocks), globals())
    thread.join()
    print("DONE {}", flush=True)
    sys.stdin.readline()


main(int(sys.argv[1]))
