"""Innocent: a producer and a consumer thread with a queue between them that always holds some 1,000 jobs."""

import queue
import threading

import service

DEPTH = 1000
JOBS = queue.Queue()


def consume():
    while True:
        JOBS.get()
        PROCEED.acquire()


PROCEED = threading.Semaphore(0)


def step(n):
    service.churn(n)
    JOBS.put({"id": n, "payload": bytearray(600)})
    if n >= DEPTH:
        PROCEED.release()


if __name__ == "__main__":
    threading.Thread(target=consume, daemon=True).start()
    service.serve(step, 250)
