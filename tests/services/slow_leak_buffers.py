"""Leaks six zeroed buffers a second. Larger ones come and go, and where one of them was, the next is kept: memory alone does not tell
one from the other."""

import service

KEPT = []


def borrow(n):
    return len(bytearray(40_000 + n % 7))


def keep():
    KEPT.append(bytearray(30_000))  # LEAK


def step(n):
    service.churn(n)
    if n % 50 == 0:
        borrow(n)
    if n % 33 == 0:
        keep()


if __name__ == "__main__":
    service.serve(step, 200)
