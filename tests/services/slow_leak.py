"""Leaks: of the entries that a line makes, one in two hundred stays in a module's list: one a second."""

import service

AUDIT = []


def record(n):
    entry = {"id": n, "who": f"user-{n}", "request": "x" * 600 + str(n), "tags": [n, n + 1]}  # LEAK
    if n % service.RARELY == 0:
        AUDIT.append(entry)


def step(n):
    service.churn(n)
    record(n)


if __name__ == "__main__":
    service.serve(step, 200)
