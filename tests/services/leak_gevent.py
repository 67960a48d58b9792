"""Leaks under gevent: greenlets switch stacks under the interpreter while one handler keeps what it reads."""

import gevent
import gevent.monkey

gevent.monkey.patch_all()

import time  # noqa: E402

import service  # noqa: E402

INBOX = []


def read(n):
    INBOX.append({"id": n, "message": bytearray(1100)})  # LEAK


def handler(n):
    service.churn(n)
    gevent.sleep(0)
    read(n)
    gevent.sleep(0)
    return deep(n, 30)


def deep(n, depth):
    if depth == 0:
        gevent.sleep(0)
        return service.churn(n)
    return deep(n, depth - 1)


def main():
    control = service.ready()
    begin, n = time.monotonic(), 0
    while True:
        gevent.sleep(max(begin + n / 200 - time.monotonic(), 0))
        command = control.next()
        if command == "quit":
            return
        if command == "stats":
            service.stats(n)
        gevent.joinall([gevent.spawn(handler, n + i) for i in range(10)], raise_error=True)
        n += 10


if __name__ == "__main__":
    main()
