"""Keeps an object each step, and forks a child each fourth, which waits; the last eight children live."""

import os
import signal

import service

KEPT = []
CHILDREN = []


def step(n):
    service.churn(n)
    KEPT.append({"id": n})
    if n % 4:
        return
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    CHILDREN.append(child)
    if len(CHILDREN) > 8:
        oldest = CHILDREN.pop(0)
        os.kill(oldest, signal.SIGKILL)
        os.waitpid(oldest, 0)


if __name__ == "__main__":
    service.serve(step, 200)
    for child in CHILDREN:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
