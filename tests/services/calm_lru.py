"""Innocent: an LRU cache of 4,000 entries that takes 20 seconds to fill, and then stays full."""

from collections import OrderedDict

import service

CAPACITY = 4000
CACHE = OrderedDict()


def page(n):
    CACHE[n] = "".join(["<li>", str(n), "</li>"] * 20)
    if len(CACHE) > CAPACITY:
        CACHE.popitem(last=False)


def step(n):
    service.churn(n)
    page(n)


if __name__ == "__main__":
    service.serve(step, 200)
