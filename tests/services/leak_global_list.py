"""Leaks: an audit trail kept in a module's list, which nothing ever trims."""

import service

AUDIT = []


def record(n):
    AUDIT.append({"id": n, "who": f"user-{n}", "request": "x" * 600 + str(n), "tags": [n, n + 1]})  # LEAK


def step(n):
    service.churn(n)
    record(n)


if __name__ == "__main__":
    service.serve(step, 200)
