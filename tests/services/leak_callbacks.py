"""Leaks: closures subscribed to a signal by each request and never unsubscribed."""

import service


class Signal:
    def __init__(self):
        self.receivers = []

    def subscribe(self, receiver):
        self.receivers.append(receiver)

    def send_to_last(self, value):
        return self.receivers[-1](value)


CHANGED = Signal()


def handle(n):
    CHANGED.subscribe(lambda value, seen=bytearray(700): value + len(seen) + n)  # LEAK
    return CHANGED.send_to_last(n)


def step(n):
    service.churn(n)
    handle(n)


if __name__ == "__main__":
    service.serve(step, 200)
