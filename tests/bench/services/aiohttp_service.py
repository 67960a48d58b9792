"""The same on asyncio and aiohttp. Says `READY PID PORT`; POST / is an order, GET /tracemalloc/N starts tracemalloc with N
frames (0: stops it)."""

import asyncio
import os

from aiohttp import web

import shop


async def order(request):
    return web.json_response(shop.order(await request.read()))


async def trace(request):
    shop.trace(int(request.match_info["frames"]))
    return web.json_response({})


async def main():
    app = web.Application()
    app.add_routes([web.post("/", order), web.get("/tracemalloc/{frames}", trace)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print("READY", os.getpid(), runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
