"""Innocent: rows gather in a batch that is written and dropped every seven seconds."""

import service

BATCH = []
BATCH_ROWS = 1400


def flush():
    total = sum(len(row["body"]) for row in BATCH)
    BATCH.clear()
    return total


def step(n):
    service.churn(n)
    BATCH.append({"id": n, "body": "b" * (500 + n % 100)})
    if len(BATCH) >= BATCH_ROWS:
        flush()


if __name__ == "__main__":
    service.serve(step, 200)
