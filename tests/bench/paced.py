"""Makes small objects at a steady rate, and keeps the last of them: how a tracer's own cost grows with rate, heap and threads.

    paced.py RATE OBJECTS THREADS KEPT

RATE objects a second, by THREADS threads together, of which the last KEPT are kept, beside OBJECTS older ones. Says
`READY PID` and begins; ends at the end of stdin.
"""

import collections
import gc
import os
import sys
import threading
import time

from common import populate

TICK_SECONDS = 0.01


def work(rate, kept):
    begun, made = time.monotonic(), 0
    burst = int(rate * TICK_SECONDS * 5) + 1  # what is later than that is not made up for
    while True:
        time.sleep(TICK_SECONDS)
        due = int((time.monotonic() - begun) * rate) - made
        for _ in range(min(due, burst)):
            kept.append(object())
        made += due


def main(rate, objects, threads, kept):
    gc.disable()
    heap = populate(objects)
    gc.enable()
    for _ in range(threads):
        last = collections.deque(maxlen=kept // threads)
        threading.Thread(target=work, args=(rate / threads, last), daemon=True).start()
    print("READY", os.getpid(), flush=True)
    sys.stdin.read()
    del heap


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
