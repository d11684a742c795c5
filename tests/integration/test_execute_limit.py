"""The 30 s of executeSync: what has them, and which route has others. The clock is set forward."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from gateway import direct
from gateway.assembly import Assembly
from gateway.config import Config
from gateway.errors import UpstreamTimeout
from gateway.fanout import Waited
from gateway.metrics import Dialect, Metrics, Mode
from gateway.model import Request
from gateway.pipeline import Run
from tests.support.remote import Peer, Seen, remote
from tests.support.scripts import OBSERVATION

#: The run's clock is so far behind the loop's, seconds: of 30 s, half a second is left.
BEHIND_S = 29.5
#: How long the upstream takes, seconds: longer than that.
TAKES_S = 1.0


async def slow(seen: Seen, peer: Peer) -> None:
    await asyncio.sleep(TAKES_S)
    await peer.answer(json.dumps({"executionId": "e", "observation": OBSERVATION}).encode())


async def run(
    mode: Mode, dialect: Dialect, timeouts: dict[str, float], *, short: bool = False
) -> None:
    """Run a call of ``mode`` whose upstream takes ``TAKES_S``; ``short``: on the short way."""
    loop = asyncio.get_running_loop()
    async with remote(slow) as far, aiohttp.ClientSession(auto_decompress=False) as session:
        section: dict[str, Any] = {"upstream": "far", "timeouts": timeouts}
        upstreams = {"far": {"kind": "cambrion", "url": far.url}}
        config = Config.model_validate({"upstreams": upstreams, "pipelines": {"p": section}})
        assembly = Assembly(
            session=session,
            metrics=Metrics(CollectorRegistry()),
            clock=lambda: loop.time() - BEHIND_S,
        )
        site = await assembly.assemble(config)
        try:
            request = Request("p", "r-1", text="x")
            route = site.routes["p"]
            if short:
                await direct.execute(route, request, site.services, Waited())
            else:
                await Run(route, request, mode, site.services).call(dialect)
        finally:
            await site.retire()


@pytest.mark.parametrize("mode", [Mode.EXECUTE, Mode.EXECUTE_JSON])
async def test_execute_sync_has_30_seconds_and_says_so(mode: Mode) -> None:
    with pytest.raises(UpstreamTimeout, match=r"was not done within 30 s \(total_s\)"):
        await run(mode, Dialect.CAMBRION, {})


async def test_the_short_way_has_as_long() -> None:
    with pytest.raises(UpstreamTimeout, match=r"was not done within 30 s \(total_s\)"):
        await run(Mode.EXECUTE, Dialect.CAMBRION, {}, short=True)


@pytest.mark.parametrize("short", [False, True])
async def test_a_route_may_give_it_more(short: bool) -> None:
    await run(Mode.EXECUTE, Dialect.CAMBRION, {"total_s": 60}, short=short)


async def test_a_query_has_no_such_limit() -> None:
    await run(Mode.QUERY, Dialect.PUPAU, {})
