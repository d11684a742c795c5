"""A fault of the gateway's own: the caller is told where to look, the log says what it was."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from gateway.assembly import Assembly
from gateway.config import Config
from gateway.errors import Code
from gateway.metrics import Metrics
from gateway.model import Delta, Event
from gateway.protocol import HttpServer
from gateway.server import Gateway
from gateway.upstreams.base import Call
from tests.support.client import read_events
from tests.support.counted import happened
from tests.support.running import client

CONFIG: dict[str, Any] = {
    "upstreams": {"faulty": {"kind": "triton", "url": "grpc://127.0.0.1:1"}},
    "pipelines": {"p": {"upstream": "faulty"}},
}


class Faulty:
    """An upstream with a bug: it fails with what no upstream may raise."""

    name = "faulty"
    kind = "triton"
    layered = False
    executes = False

    async def stream(self, call: Call) -> AsyncIterator[Event]:
        if call.request.text == "late":
            yield Delta(call.actor, "Hel", call.layer_id)
        raise RuntimeError("the bug")

    async def call(self, call: Call) -> Event:
        raise RuntimeError("the bug")

    async def definition(self, pipeline: str, request_id: str) -> dict[str, Any]:
        raise RuntimeError("the bug")

    async def probe(self) -> None:
        return

    async def close(self) -> None:
        return


@pytest.fixture
async def running() -> AsyncIterator[tuple[str, CollectorRegistry]]:
    """A gateway, wired as ``app`` does it, around the faulty upstream."""
    config = Config.model_validate(CONFIG)
    loop = asyncio.get_running_loop()
    metrics = Metrics(CollectorRegistry())
    async with aiohttp.ClientSession() as session:
        site = await Assembly(session=session, metrics=metrics, clock=loop.time).assemble(config)
        for target in site.routes["p"].targets():
            target.guard.upstream = Faulty()
        gateway = Gateway(site, metrics=metrics, clock=loop.time)
        server = HttpServer(gateway.handle, header_timeout_s=lambda: 10, handler_cancellation=True)
        runner = web.ServerRunner(server)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}", metrics.registry
        await runner.cleanup()
        await site.retire()


async def test_a_fault_is_told_without_its_inside_and_counted_as_internal(
    running: tuple[str, CollectorRegistry], caplog: pytest.LogCaptureFixture
) -> None:
    base, registry = running
    headers = {"X-Request-Id": "r-9"}
    async with client(base) as session:
        path = "/v1/pipelines/p/executeSync"
        async with session.post(path, json={"text": "x"}, headers=headers) as response:
            assert response.status == 500
            answer = await response.json()
        assert answer["code"] == Code.INTERNAL
        assert "r-9" in answer["message"]
        assert "bug" not in answer["message"]
        path = "/pipelines/p/queries?sse=true"
        async with session.post(path, json={"request": "late"}, headers=headers) as response:
            assert response.status == 200
            events = await read_events(response)
        async with session.get("/v1/pipelines/p/definition") as response:
            assert response.status == 500
    assert [event["type"] for event in events] == [
        "LAYER_MESSAGE",
        "STREAMING_RESPONSE",
        "LAYER_RESPONSE",
    ]
    (failed,) = events[-1]["responses"]
    assert (failed["message"], failed["errors"][0]["name"]) == ("Hel", "Internal")
    assert events[-1]["last"] is True
    text = happened(generate_latest(registry).decode())
    for mode, dialect in (("execute", "cambrion"), ("query_stream", "pupau")):
        assert (
            f'gateway_requests_total{{dialect="{dialect}",mode="{mode}",'
            'outcome="internal",pipeline="p"} 1.0' in text
        )
    assert 'gateway_upstream_requests_total{kind="triton",outcome="internal"' in text
    faults = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(faults) == 3
    assert all("the bug" in str(record.exc_info) for record in faults)
