"""Innocent: requests that allocate a good deal and keep none of it."""

import service


class Request:
    def __init__(self, n):
        self.headers = {f"x-{i}": str(n * i) for i in range(20)}
        self.body = bytearray(2000)
        self.parent = self


def step(n):
    service.churn(n)
    request = Request(n)
    return len(request.headers)


if __name__ == "__main__":
    service.serve(step, 300)
