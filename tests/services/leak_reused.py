"""Leaks: lists that are kept for ever, each the memory of one that was given back a moment before."""

import service

KEPT = []


def borrow(n):
    """Makes a list, and gives it back: it goes to the interpreter's free list."""
    scratch = list()
    scratch.append(n)
    return len(scratch)


def keep(n):
    KEPT.append([])  # LEAK


def step(n):
    service.churn(n)
    borrow(n)
    keep(n)


if __name__ == "__main__":
    service.serve(step, 200)
