"""Innocent: each batch frees nearly all of its small objects, but the few that stay keep whole arenas mapped.

The resident set is many times what is alive, and what is alive is bounded: the survivors of the last four batches.
"""

from collections import deque

import service

SURVIVORS = deque(maxlen=4)


def batch():
    rows = [bytes(40 + i % 200) for i in range(60_000)]
    return rows[::97]


def step(n):
    service.churn(n)
    if n % 300 == 0:
        SURVIVORS.append(batch())


if __name__ == "__main__":
    service.serve(step, 150)
