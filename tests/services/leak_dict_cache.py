"""Leaks: pages cached by a key that never repeats, without eviction."""

import service

CACHE = {}


def page(n):
    key = f"/item/{n}?session={n * 2654435761 % 2**32:x}"
    found = CACHE.get(key)
    if found is None:
        found = CACHE[key] = "".join(["<li>", key, "</li>"] * 20)  # LEAK
    return found


def step(n):
    service.churn(n)
    page(n)


if __name__ == "__main__":
    service.serve(step, 200)
