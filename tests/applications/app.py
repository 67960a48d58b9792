"""What is frozen or embedded: says its pid, allocates a known number of blocks when told, and waits to be told to end."""

import os
import sys

kept = [None] * 1000


def work():
    for n in range(1000):
        kept[n] = b"%300d" % n


print('READY {"pid": %d}' % os.getpid(), flush=True)
sys.stdin.readline()
work()
print("DONE {}", flush=True)
sys.stdin.readline()
