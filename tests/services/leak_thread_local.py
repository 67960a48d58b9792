"""Leaks: worker threads that each keep a memo of everything they ever did in thread-local storage."""

import queue
import threading

import service

LOCAL = threading.local()
JOBS = queue.Queue()


def remember(n):
    if not hasattr(LOCAL, "memo"):
        LOCAL.memo = {}
    LOCAL.memo[n] = ["result", n, b"r" * (700 + n % 16)]  # LEAK


def worker():
    while True:
        n = JOBS.get()
        service.churn(n)
        remember(n)


def step(n):
    JOBS.put(n)


if __name__ == "__main__":
    for _ in range(4):
        threading.Thread(target=worker, daemon=True).start()
    service.serve(step, 200)
