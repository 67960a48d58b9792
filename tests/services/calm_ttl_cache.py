"""Innocent: entries live for eight seconds and are swept once a second."""

import time

import service

LIFETIME = 8.0
CACHE = {}


def sweep(now):
    for key in [key for key, (deadline, _) in CACHE.items() if deadline < now]:
        del CACHE[key]


def step(n):
    service.churn(n)
    now = time.monotonic()
    CACHE[n] = (now + LIFETIME, bytearray(800))
    if n % 200 == 0:
        sweep(now)


if __name__ == "__main__":
    service.serve(step, 200)
