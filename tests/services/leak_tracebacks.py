"""Leaks: errors kept "for the report", and with each its traceback, its frames and their local variables."""

import service

ERRORS = []


def load(n):
    upload = bytearray(1000 + n % 32)  # LEAK
    if service.churn(n) >= 0:
        raise ValueError(f"record {n} of {len(upload)} bytes is malformed")


def step(n):
    try:
        load(n)
    except ValueError as error:
        ERRORS.append(error)


if __name__ == "__main__":
    service.serve(step, 200)
