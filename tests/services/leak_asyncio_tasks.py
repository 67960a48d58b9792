"""Leaks: each request starts a task that waits for an answer which never comes."""

import asyncio
import time

import service

WAITING = set()


async def session(n):
    answer = asyncio.get_running_loop().create_future()
    context = {"id": n, "frame": bytearray(1200), "answer": answer}  # LEAK
    await answer
    return context


async def request(n):
    WAITING.add(asyncio.ensure_future(session(n)))
    await asyncio.sleep(0)
    return service.churn(n)


async def main(control):
    begin, n = time.monotonic(), 0
    while True:
        await asyncio.sleep(max(begin + n / 150 - time.monotonic(), 0))
        command = control.next()
        if command == "quit":
            break
        if command == "stats":
            service.stats(n)
        await asyncio.gather(request(n), request(n + 1))
        n += 2
    for task in WAITING:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main(service.ready()))
