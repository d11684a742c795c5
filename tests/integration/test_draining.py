"""The end of a gateway: what runs may finish in its time, and what does not is told so."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from gateway.assembly import Assembly
from gateway.config import Config
from gateway.metrics import Metrics
from gateway.protocol import HttpServer
from gateway.server import Gateway
from tests.support.client import read_events
from tests.support.counted import outcomes
from tests.support.leftovers import sums
from tests.support.raw import answer, raw, request
from tests.support.remote import Peer, Script, Seen, remote
from tests.support.running import client
from tests.support.scripts import EVENTS, answering, frames, pupau_script
from tests.support.timing import patience, promised, until


class Ending:
    """A gateway whose end the test decides on."""

    def __init__(self, gateway: Gateway, server: HttpServer, base: str, metrics: Metrics) -> None:
        self.gateway = gateway
        self.server = server
        self.base = base
        self._metrics = metrics

    async def runs(self, requests: int) -> None:
        """Return once as many requests run."""
        await until(lambda: self.gateway.running == requests)

    def ended(self) -> dict[str, int]:
        """How many requests have ended in which way."""
        return outcomes(self._exposed())

    def streams_open(self) -> float:
        """The gauge."""
        return sums(self._exposed()).get("gateway_streams_open", 0)

    def _exposed(self) -> str:
        return generate_latest(self._metrics.registry).decode()


@asynccontextmanager
async def ending(script: Script) -> AsyncIterator[Ending]:
    """A gateway in front of ``script``, wired as ``app`` does it."""
    async with remote(script) as far, aiohttp.ClientSession(auto_decompress=False) as session:
        config = Config.model_validate(
            {
                "server": {"heartbeat_s": 0.2},
                "upstreams": {"far": {"kind": "pupau", "url": far.url}},
                "pipelines": {"p": {"upstream": "far"}},
            }
        )
        metrics, clock = Metrics(CollectorRegistry()), asyncio.get_running_loop().time
        site = await Assembly(session=session, metrics=metrics, clock=clock).assemble(config)
        gateway = Gateway(site, metrics=metrics, clock=clock)
        server = HttpServer(
            gateway.handle,
            header_timeout_s=lambda: config.server.header_timeout_s,
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
        )
        runner = web.ServerRunner(server, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        try:
            yield Ending(gateway, server, f"http://{host}:{port}", metrics)
        finally:
            await runner.cleanup()
            await site.retire()


async def silent(seen: Seen, peer: Peer) -> None:
    await seen.gone.wait()


async def begun(seen: Seen, peer: Peer) -> None:
    await peer.open_stream()
    await peer.chunk(frames(EVENTS[:2]))
    await seen.gone.wait()


async def flood(seen: Seen, peer: Peer) -> None:
    await peer.open_stream()
    while not seen.gone.is_set():
        await peer.chunk(frames(EVENTS[1:2]) * 500)


STREAMS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "query": ("/pipelines/p/queries?sse=true", {"request": "x"}, {}),
    "execute": ("/v1/pipelines/p/executeSync", {"text": "x"}, {"Accept": "text/event-stream"}),
}
CALLS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "query-call": ("/pipelines/p/queries", {"request": "x"}, {}),
    "execute-call": ("/v1/pipelines/p/executeSync", {"text": "x"}, {}),
}


async def test_a_gateway_that_stops_says_so_and_still_answers() -> None:
    async with ending(pupau_script) as end, client(end.base) as session:
        async with session.get("/readyz") as response:
            assert response.status == 200
            assert "Connection" not in response.headers
        end.gateway.stop()
        async with session.get("/readyz") as response:
            assert response.status == 503
            answered = await response.json()
        assert (answered["ready"], answered["stopping"]) == (False, True)
        for path, body, headers in (*STREAMS.values(), *CALLS.values()):
            async with session.post(path, json=body, headers=headers) as response:
                assert response.status == 200
                assert response.headers["Connection"] == "close"
                await response.read()


@pytest.mark.parametrize("form", STREAMS)
async def test_draining_takes_as_long_as_what_runs_and_no_longer(form: str) -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        for event in EVENTS:
            await peer.chunk(frames([event]))
            await asyncio.sleep(0.05)
        await peer.end()

    path, body, headers = STREAMS[form]
    async with ending(script) as end, client(end.base) as session:
        async with session.post(path, json=body, headers=headers) as response:
            reading = asyncio.create_task(read_events(response))
            async with promised(5):
                await end.gateway.drain(20)
            assert end.gateway.running == 0
            events = await reading
        assert events[: len(EVENTS)] == EVENTS
        assert end.ended() == {"complete": 1}
        async with promised(0.5):
            await end.gateway.drain(20)


@pytest.mark.parametrize("form", STREAMS)
@pytest.mark.parametrize("script", [silent, begun])
async def test_a_stream_that_does_not_finish_in_time_ends_with_an_error_event(
    form: str, script: Script
) -> None:
    path, body, headers = STREAMS[form]
    async with ending(script) as end, client(end.base) as session:
        # Where nothing has come from upstream, it is a ping that opened the stream.
        async with session.post(path, json=body, headers=headers) as response:
            assert response.status == 200
            began = time.monotonic()
            async with promised(1.2):
                await end.gateway.drain(0.2)
            assert time.monotonic() - began >= 0.2
            events = await read_events(response)
        assert events[:-1] == (EVENTS[:2] if script is begun else [])
        assert (events[-1]["type"], events[-1]["last"]) == ("LAYER_RESPONSE", True)
        (error,) = events[-1]["responses"][0]["errors"]
        assert error == {"name": "ShuttingDown", "message": "the gateway is shutting down"}
        assert end.ended() == {"shut_down": 1}
        assert end.streams_open() == 0


@pytest.mark.parametrize("form", CALLS | STREAMS)
async def test_before_its_head_what_does_not_finish_in_time_is_answered_503(form: str) -> None:
    path, body, headers = (CALLS | STREAMS)[form]
    async with ending(silent) as end, client(end.base) as session:
        asking = asyncio.create_task(session.post(path, json=body, headers=headers))
        await end.runs(1)
        await end.gateway.drain(0.05)
        async with await asking as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            told = await response.json()
        assert told.get("code", told.get("name")) in ("shutting_down", "ShuttingDown")
        assert end.ended() == {"shut_down": 1}
        assert end.streams_open() == 0
        async with session.get("/healthz") as response:  # what comes later is not begun
            assert response.status == 503


async def test_a_body_that_is_still_arriving_is_taken_once_the_listener_has_shut() -> None:
    whole = request("/pipelines/p/queries", {"request": "x" * 100})
    async with ending(pupau_script) as end, raw(end.base) as caller, raw(end.base) as idle:
        await idle.send(request("/healthz"))
        await idle.read()
        await caller.send(whole[:-50])
        await end.runs(1)
        end.gateway.stop()
        end.server.pre_shutdown()
        assert await idle.read_all() == b""
        draining = asyncio.create_task(end.gateway.drain(5))
        await asyncio.sleep(0.05)
        await caller.send(whole[-50:])
        status, fields, body = answer(await caller.read_all())
        await draining
    assert (status, fields["connection"]) == (200, "close")
    assert json.loads(body) == EVENTS[-1]["responses"]


async def test_a_body_that_does_not_arrive_in_time_is_answered_503() -> None:
    async with ending(pupau_script) as end, raw(end.base) as caller:
        await caller.send(request("/pipelines/p/queries", {"request": "x"}, length=500))
        await end.runs(1)
        await end.gateway.drain(0.05)
        assert answer(await caller.read())[0] == 503


async def test_the_work_upstream_ends_with_the_request() -> None:
    seen: list[Seen] = []

    async def script(asked: Seen, peer: Peer) -> None:
        seen.append(asked)
        await begun(asked, peer)

    path, body, headers = STREAMS["query"]
    async with (
        ending(script) as end,
        client(end.base) as session,
        session.post(path, json=body, headers=headers),
    ):
        await end.gateway.drain(0.05)
        async with promised(1):
            await seen[0].gone.wait()


async def test_clients_that_read_nothing_do_not_hold_up_the_end() -> None:
    async with ending(flood) as end, raw(end.base) as caller:
        await caller.send(request("/pipelines/p/queries?sse=true", {"request": "x"}))
        await asyncio.sleep(0.4)
        async with promised(2):
            await end.gateway.drain(0.05)
        assert end.gateway.running == 0
        assert end.ended() == {"shut_down": 1}
        assert end.streams_open() == 0


async def test_an_answer_is_not_done_before_all_of_it_has_left_the_gateway() -> None:
    message = "x" * 30_000
    answered = [{"actorId": "a", "message": message, "errors": [], "info": []}]
    script = answering(json.dumps(answered).encode())
    async with ending(script) as end, raw(end.base) as caller:
        asked = 0
        while not end.gateway.running:
            for connection in end.server.connections:  # what is left could be lost at a stop
                assert connection.transport is not None
                assert connection.transport.get_write_buffer_size() == 0
            await caller.send(request("/pipelines/p/queries", {"request": "x"}))
            asked += 1
            for _ in range(60):  # until it is done, or clearly waits for the client
                await asyncio.sleep(0.005)
                if sum(end.ended().values()) == asked:
                    break
        end.gateway.stop()
        draining = asyncio.create_task(end.gateway.drain(20))
        async with patience():
            received = await caller.read_all()
        assert received.count(message.encode()) == asked
        await draining
        assert end.ended() == {"complete": asked}


async def test_a_client_that_goes_on_reading_gets_the_end_of_a_flood() -> None:
    path, body, headers = STREAMS["query"]
    async with (
        ending(flood) as end,
        client(end.base) as session,
        session.post(path, json=body, headers=headers) as response,
    ):
        reading = asyncio.create_task(response.text())  # parsed later: a busy client reads less
        await asyncio.sleep(0.2)
        await end.gateway.drain(0.05)
        last = (await reading).strip().rsplit("\n\n", 1)[1].removeprefix("data: ")
    assert json.loads(last)["responses"][0]["errors"][0]["name"] == "ShuttingDown"


async def test_a_cut_waits_for_nobody_but_says_what_can_be_said() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await (flood if seen.headers["x-request-id"] == "flood" else begun)(seen, peer)

    path, body, headers = STREAMS["query"]
    async with ending(script) as end, client(end.base) as session, raw(end.base) as caller:
        await caller.send(request(path, body, "X-Request-Id: flood"))
        async with session.post(path, json=body, headers=headers) as response:
            await asyncio.sleep(0.4)
            draining = asyncio.create_task(end.gateway.drain(30))
            await asyncio.sleep(0.05)
            await end.runs(2)
            async with promised(0.6):
                await end.gateway.cut()
            await draining
            assert end.gateway.running == 0
            events = await read_events(response)
        assert events[-1]["responses"][0]["errors"][0]["name"] == "ShuttingDown"
        assert not (await caller.read_all()).endswith(b"\r\n0\r\n\r\n")
        assert end.ended() == {"shut_down": 2}


async def test_a_client_that_leaves_as_the_gateway_ends_is_no_fault() -> None:
    async with ending(begun) as end:
        async with raw(end.base) as caller:
            await caller.send(request("/pipelines/p/queries?sse=true", {"request": "x"}))
            await caller.read()
        await end.gateway.drain(0)
        assert end.gateway.running == 0
        assert end.streams_open() == 0
        assert sum(end.ended().values()) == 1
