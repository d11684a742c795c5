"""A Triton that is killed and started again, and how many connections it sees."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deploy.triton.serve import start_triton
from tests.support.client import read_events
from tests.support.faultproxy import FaultProxy, fault_proxy
from tests.support.leftovers import nothing_left
from tests.support.running import client, gateway
from tests.support.timing import promised
from tests.support.triton_calls import call, message, run, upstream_at
from tests.triton_server import TEST_MODELS, Triton

CONFIG = """
upstreams:
  gpu: {{kind: triton, url: "{url}"}}
pipelines:
  echo: {{upstream: gpu, inputs: {{INPUT: text}}}}
  stream: {{upstream: gpu, inputs: {{TEXT: text, DELAY_S: "20"}}}}
"""
CALLS = 10_000
AT_ONCE = 50


class Restartable:
    """A Triton of two models, on the same ports each time it is started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models = folder / "models"
        self._models.mkdir()
        for model in ("echo", "stream"):
            (self._models / model).symlink_to(TEST_MODELS / model)
        self.server = start_triton(self._models, folder / "first")

    def kill(self) -> None:
        """Kill it and its models' processes with SIGKILL."""
        if self.server.process.poll() is None:
            os.killpg(self.server.process.pid, signal.SIGKILL)
        self.server.stop()

    def start(self) -> None:
        """Start it again; returns when it is ready."""
        before = self.server
        self.server = start_triton(
            self._models,
            self._folder / "again",
            before.http_port,
            before.grpc_port,
            before.metrics_port,
        )


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[Restartable]:
    triton = Restartable(tmp_path)
    try:
        yield triton
    finally:
        triton.kill()  # faster than to end it in order


@asynccontextmanager
async def calling(
    triton: Triton, scheme: str
) -> AsyncIterator[tuple[FaultProxy, str, aiohttp.ClientSession]]:
    """A gateway before this Triton, through a proxy that counts connections."""
    async with fault_proxy(triton.grpc_port if scheme == "grpc" else triton.http_port) as proxy:
        url = proxy.grpc_url if scheme == "grpc" else proxy.url
        async with gateway(CONFIG.format(url=url)) as base, client(base) as session:
            yield proxy, base, session


async def echo(session: aiohttp.ClientSession) -> tuple[int, Any]:
    async with session.post("/pipelines/echo/queries", json={"request": "hi"}) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
async def test_a_triton_that_is_killed_and_started_again_is_used_within_five_seconds(
    scheme: str, restartable: Restartable
) -> None:
    async with calling(restartable.server, scheme) as (proxy, base, session):
        assert (await echo(session))[0] == 200
        async with nothing_left(base, proxy), client(base) as caller:
            path = "/pipelines/stream/queries?sse=true"
            async with caller.post(path, json={"request": "one two"}) as response:
                assert response.status == 200
                restartable.kill()
                events = await read_events(response)
            (failed,) = events[-1]["responses"]
            assert failed["message"] == "one "
            assert failed["errors"][0]["name"] == "UpstreamFailed"
            assert "upstream gpu" in failed["errors"][0]["message"]
            for _ in range(10):
                status, answer = await echo(caller)
                assert status in (502, 503), answer
                assert "upstream gpu" in answer["message"]
        await asyncio.to_thread(restartable.start)
        async with promised(5):
            while (await echo(session))[0] != 200:
                await asyncio.sleep(0.05)
        async with session.get("/readyz") as ready:
            assert ready.status == 200


async def test_ten_thousand_calls_go_over_one_connection(triton: Triton) -> None:
    async with fault_proxy(triton.grpc_port) as proxy, upstream_at(proxy.grpc_url) as upstream:
        left = iter(range(CALLS))

        async def caller() -> None:
            for _ in left:
                assert await run(upstream, call("echo", text="hi")) == [message("hi")]

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        assert next(left, None) is None
        assert proxy.accepted == 1
