"""The bare proxy to compare with: aiohttp on both sides and nothing in between.

Run as ``python -m tests.bench.bare PORT UPSTREAM``.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

SESSION = web.AppKey("session", aiohttp.ClientSession)


async def relay(request: web.Request) -> web.StreamResponse:
    """Pass one request on and its answer back."""
    body = await request.read()
    url = sys.argv[2] + request.path_qs
    async with request.app[SESSION].post(url, data=body) as upstream:
        if upstream.content_type != "text/event-stream":
            return web.Response(body=await upstream.read(), content_type=upstream.content_type)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for piece in upstream.content.iter_any():
            await response.write(piece)
        return response


async def client(app: web.Application) -> AsyncIterator[None]:
    """One session for the life of the proxy."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        app[SESSION] = session
        yield


if __name__ == "__main__":
    app = web.Application()
    app.cleanup_ctx.append(client)
    app.router.add_post("/{path:.*}", relay)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
