"""A service whose load changes: leaks one record a step beside what each step does and drops.

Says READY as the bundled services do, and begins when a line comes. Lines that follow are a rate, steps a second; `flood`, as many as it can;
or `quit`, as the end of input is.
"""

import os
import sys
import time

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "services"))
import service  # noqa: E402

KEPT = []
CALM = 500


def step(n):
    service.churn(n)
    KEPT.append({"id": n, "text": "x" * 600 + str(n)})


def main():
    control = service.ready()
    rate, begin, n, steps = CALM, time.monotonic(), 0, 0
    while True:
        wait = begin + n / rate - time.monotonic() if rate else 0.0
        command = control.next(max(wait, 0.0)) if rate or steps % 64 == 0 else None
        if command == "quit":
            return
        if command not in (None, "go"):
            rate, begin, n = None if command == "flood" else float(command), time.monotonic(), 0
            continue
        step(steps)
        n, steps = n + 1, steps + 1


if __name__ == "__main__":
    main()
