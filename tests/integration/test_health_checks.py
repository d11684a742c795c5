"""Upstreams that are asked whether they are ready, at intervals, and what readiness makes of it."""

from __future__ import annotations

import asyncio
from time import monotonic

import aiohttp

from tests.support.remote import Peer, Seen, remote
from tests.support.running import client, gateway
from tests.support.timing import patience, until

CONFIG = """
server: {{port: 0}}
upstreams:
  gpu:
    {{kind: triton, url: "{url}", check_every_s: 0.3, breaker: {{failures: 1, open_s: 60}}}}
pipelines:
  chat: {{upstream: gpu}}
"""


class Triton:
    """Its HTTP side, of which only readiness works, and only while it is ``ready``."""

    def __init__(self) -> None:
        self.ready = True
        self.asked = 0

    async def __call__(self, seen: Seen, peer: Peer) -> None:
        if seen.path == "/v2/health/ready":
            self.asked += 1
            await peer.answer(b"", "200 OK" if self.ready else "503 Busy")
        else:
            peer.cut()


async def readiness(session: aiohttp.ClientSession) -> bool:
    async with session.get("/readyz") as response:
        return response.status == 200


async def becomes(session: aiohttp.ClientSession, ready: bool) -> None:
    async with patience():
        while await readiness(session) is not ready:
            await asyncio.sleep(0.02)


async def test_readiness_follows_the_checks_and_asks_nothing_itself() -> None:
    triton = Triton()
    async with (
        remote(triton) as upstream,
        gateway(CONFIG.format(url=upstream.url)) as base,
        client(base) as session,
    ):
        await becomes(session, ready=True)
        for ready in (False, True):
            triton.ready = ready
            await becomes(session, ready=ready)
        before, began = triton.asked, monotonic()
        for _ in range(50):
            assert await readiness(session)
        assert triton.asked - before <= 2 + (monotonic() - began) / 0.3


async def test_a_good_check_lets_an_open_breaker_try_at_once() -> None:
    triton = Triton()
    async with (
        remote(triton) as upstream,
        gateway(CONFIG.format(url=upstream.url)) as base,
        client(base) as session,
    ):
        codes: list[str] = []
        async with patience():
            # The breaker opens with the first failure, and for a minute: only a check lets a call
            # through after one that was not made.
            while "UpstreamUnavailable" not in codes or codes[-1] != "UpstreamFailed":
                async with session.post(
                    "/pipelines/chat/queries", json={"request": "x"}
                ) as response:
                    codes.append((await response.json())["name"])
                await asyncio.sleep(0.02)


async def test_the_checks_end_with_the_gateway() -> None:
    triton = Triton()
    async with remote(triton) as upstream:
        tasks = len(asyncio.all_tasks())
        async with (
            gateway(CONFIG.format(url=upstream.url)) as base,
            client(base) as session,
        ):
            await becomes(session, ready=True)
        asked = triton.asked
        assert asked > 0
        await until(lambda: not upstream.open_connections)
        assert len(asyncio.all_tasks()) <= tasks
        assert triton.asked == asked
