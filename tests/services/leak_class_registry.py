"""Leaks: every session registers itself with its class and none is ever removed."""

import service


class Session:
    live = {}

    def __init__(self, number):
        self.number = number
        self.buffer = bytearray(900)  # LEAK
        Session.live[number] = self

    def close(self):
        """Forgets the registry: that is the leak."""
        self.number = None


def step(n):
    service.churn(n)
    Session(n).close()


if __name__ == "__main__":
    service.serve(step, 200)
