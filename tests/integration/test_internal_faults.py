"""A fault of the gateway's own: the caller is told where to look, the log says what it was."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from gateway.compiled import compile_config
from gateway.config import Config
from gateway.errors import Code
from gateway.fanout import Fanout
from gateway.health import Health
from gateway.keys import Keyring
from gateway.metrics import Metrics
from gateway.model import Delta, Event
from gateway.pipeline import Route, Services
from gateway.protocol import HttpServer
from gateway.sandbox import Sandbox
from gateway.sections import BoundsConfig
from gateway.server import Gateway
from gateway.upstreams.base import Call
from tests.support.client import read_events
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
    upstream = Faulty()
    health = Health({"faulty": upstream}, required=frozenset(), clock=loop.time)
    sandbox = Sandbox(
        time_s=1,
        memory_bytes_max=1 << 28,
        expression_bytes_max=1000,
        output_bytes_max=1000,
        depth_max=100,
        sequence_max=1000,
        engine="jsonatapy",
        processes=1,
        waiting_max=1,
    )
    services = Services(Fanout(metrics, health, loop.time), sandbox, metrics, loop.time, 1)
    transforms: Any = compile_config(config).pipelines["p"]
    gateway = Gateway(
        routes={"p": Route("p", config.pipelines["p"], upstream, transforms)},
        keyring=Keyring(None),
        bounds=BoundsConfig(),
        forward_headers=(),
        services=services,
        health=health,
    )
    runner = web.ServerRunner(HttpServer(gateway.handle, handler_cancellation=True))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    yield f"http://{host}:{port}", metrics.registry
    await runner.cleanup()


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
    text = generate_latest(registry).decode()
    for mode, dialect in (("execute", "cambrion"), ("query_stream", "pupau")):
        assert (
            f'gateway_requests_total{{dialect="{dialect}",mode="{mode}",'
            'outcome="internal",pipeline="p"} 1.0' in text
        )
    assert 'gateway_upstream_requests_total{kind="triton",outcome="internal"' in text
    faults = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(faults) == 3
    assert all("the bug" in str(record.exc_info) for record in faults)
