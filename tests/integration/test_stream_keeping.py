"""Silent streams: what keeps them open, and what a failure looks like once they are."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.sse import Decoder
from tests.support.counted import happened
from tests.support.leftovers import gauges, nothing_left
from tests.support.raw import Raw, raw, request
from tests.support.remote import Peer, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import EVENTS, frames
from tests.support.serving import Serving, serving
from tests.support.timing import patience, promised

CONFIG = """
server: {{port: 0, heartbeat_s: {heartbeat_s}}}
upstreams:
  far: {{kind: pupau, url: "{url}", retries: {{retries_max: 0}}}}
pipelines:
  plain: {{upstream: far}}
  touched: {{upstream: far, transform: {{event: "$"}}}}
  hushed: {{upstream: far, transform: {{event: "()"}}}}
  slow:
    upstream: far
    transform: {{observation: "$count([1..300000].($ * 2))"}}
transforms: {{time_s: 30, large: {{over_bytes: 1024}}}}
"""
PING = ": ping\n\n"
FORMS = {
    "frames": ("/pipelines/plain/queries?sse=true", {"request": "x"}, {}),
    "events": ("/pipelines/touched/queries?sse=true", {"request": "x"}, {}),
    "execute": ("/v1/pipelines/plain/executeSync", {"text": "x"}, {"Accept": "text/event-stream"}),
}
every_form = pytest.mark.parametrize("form", FORMS)


def config(url: str, heartbeat_s: float | str = 0.1) -> str:
    return CONFIG.format(url=url, heartbeat_s=heartbeat_s)


def events_of(text: str) -> list[dict[str, Any]]:
    decoder = Decoder(1 << 20)
    found = [json.loads(frame.data) for frame in decoder.feed(text.encode())]
    assert not decoder.pending
    return found


@asynccontextmanager
async def process(folder: Path, text: str) -> AsyncIterator[Serving]:
    """A process that serves by ``text``: on the loop that a gateway has where it is not tested."""
    path = folder / "gateway.yaml"
    path.write_text(text)
    async with serving(path) as gateway:
        yield gateway


async def ask(session: aiohttp.ClientSession, form: str) -> tuple[int, str]:
    path, body, headers = FORMS[form]
    async with session.post(path, json=body, headers=headers) as response:
        return response.status, await response.text()


@every_form
async def test_a_stream_is_pinged_before_its_first_event_and_between_events(form: str) -> None:
    pinged = asyncio.Semaphore(0)

    async def script(seen: Seen, peer: Peer) -> None:
        for _ in range(2):
            await pinged.acquire()
        await peer.open_stream()
        await peer.chunk(frames(EVENTS[:3]))
        for _ in range(2):
            await pinged.acquire()
        await peer.chunk(frames(EVENTS[3:]))
        await peer.end()

    async with (
        remote(script) as far,
        gateway(config(far.url)) as base,
        client(base) as session,
    ):
        path, body, headers = FORMS[form]
        async with session.post(path, json=body, headers=headers) as response:
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            assert response.headers["X-Accel-Buffering"] == "no"
            text = (await response.content.readuntil(b"\n\n")).decode()
            assert text == PING
            assert (await gauges(base))["gateway_streams_open"] == 1
            pinged.release()
            async for piece in response.content.iter_any():
                for _ in range(piece.count(PING.encode())):
                    pinged.release()
                text += piece.decode()
        assert (await gauges(base))["gateway_streams_open"] == 0
        async with session.get("/metrics") as response:
            metrics = await response.text()
    before, between = re.findall(rf"(?:{PING})+", text)
    assert before.count(PING) >= 2
    assert between.count(PING) >= 2
    events = events_of(text)
    assert events[: len(EVENTS)] == EVENTS
    # A ping is no event, and not the first one either.
    written = re.search(r"gateway_stream_events_total{.*} (.*)", metrics)
    assert written is not None
    assert float(written[1]) == len(events)
    first_s = re.search(r"gateway_first_event_seconds_sum{.*} (.*)", metrics)
    assert first_s is not None
    assert float(first_s[1]) > 0.15


async def test_a_stream_in_which_something_happens_is_not_pinged() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        for event in EVENTS:
            await peer.chunk(frames([event]))
            await asyncio.sleep(0.15)
        await peer.end()

    async with (
        remote(script) as far,
        gateway(config(far.url, heartbeat_s=1)) as base,
        client(base) as session,
    ):
        status, text = await ask(session, "frames")
    assert status == 200
    assert PING not in text


@pytest.mark.parametrize("form", ["frames", "events"])
async def test_a_ping_never_falls_into_an_event(form: str) -> None:
    written = frames(EVENTS)

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        for start in range(0, len(written), 200):
            await peer.chunk(written[start : start + 200])
            await asyncio.sleep(0.12)
        await peer.end()

    async with (
        remote(script) as far,
        gateway(config(far.url, heartbeat_s=0.05)) as base,
        client(base) as session,
    ):
        _, text = await ask(session, form)
    assert PING in text
    assert events_of(text) == EVENTS


@every_form
async def test_after_a_ping_a_failure_is_the_closing_event(form: str) -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await asyncio.sleep(0.25)
        await peer.answer(b'{"message": "no"}', status="500 Broken")

    async with (
        remote(script) as far,
        gateway(config(far.url)) as base,
        client(base) as session,
    ):
        status, text = await ask(session, form)
        assert not any((await gauges(base)).values())
        async with session.get("/metrics") as response:
            metrics = await response.text()
    assert status == 200
    assert text.startswith(PING)
    (event,) = events_of(text)
    assert (event["type"], event["last"]) == ("LAYER_RESPONSE", True)
    assert event["responses"][0]["errors"][0]["name"] == "UpstreamFailed"
    assert 'outcome="upstream_error"' in happened(metrics)


async def test_before_the_first_ping_a_failure_is_a_status() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await asyncio.sleep(0.1)
        await peer.answer(b"{}", status="500 Broken")

    async with (
        remote(script) as far,
        gateway(config(far.url, heartbeat_s=5)) as base,
        client(base) as session,
    ):
        status, text = await ask(session, "execute")
    assert status == 502
    assert "answered 500" in json.loads(text)["message"]


async def test_a_failure_is_told_once_where_all_events_were_dropped_but_pings() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(frames(EVENTS[:2]))
        await asyncio.sleep(0.25)
        peer.cut()

    async with (
        remote(script) as far,
        gateway(config(far.url)) as base,
        client(base) as session,
        session.post("/pipelines/hushed/queries?sse=true", json={"request": "x"}) as response,
    ):
        (event,) = events_of(await response.text())
    assert event["responses"][0]["errors"][0]["name"] == "UpstreamFailed"


async def test_pings_come_while_the_observation_is_computed() -> None:
    long = "x" * 2000  # too long for the loop itself to evaluate anything over it
    last = {**EVENTS[-1], "responses": [{**EVENTS[-1]["responses"][0], "message": long}]}

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(frames([EVENTS[0], last]))
        await peer.end()

    async with (
        remote(script) as far,
        gateway(config(far.url, heartbeat_s=0.02)) as base,
        client(base) as session,
    ):
        headers = {"Accept": "text/event-stream"}
        path = "/v1/pipelines/slow/executeSync"
        async with session.post(path, json={"text": "x"}, headers=headers) as response:
            text = await response.text()
    assert events_of(text)[-1]["observation"] == 300_000
    assert PING in text[text.index("LAYER_MESSAGE") : text.index("LAYER_RESPONSE")]


async def test_a_client_of_http_1_0_is_pinged_without_chunks() -> None:
    pinged = asyncio.Event()

    async def script(seen: Seen, peer: Peer) -> None:
        await pinged.wait()
        await peer.open_stream()
        await peer.chunk(frames(EVENTS))
        await peer.end()

    async with remote(script) as far, gateway(config(far.url)) as base, raw(base) as caller:
        asked = request("/pipelines/plain/queries?sse=true", {"request": "x"})
        await caller.send(asked.replace(b"HTTP/1.1", b"HTTP/1.0"))
        received = b""
        while received.count(PING.encode()) < 2:
            received += await caller.read()
        pinged.set()
        received += await caller.read_all()
    _, _, text = received.decode().partition("\r\n\r\n")
    assert text.startswith(PING * 2)
    assert text.replace(PING, "") == frames(EVENTS).decode()


async def test_a_client_that_leaves_between_two_pings_ends_the_work_upstream() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await seen.gone.wait()

    async with remote(script) as far, gateway(config(far.url)) as base, nothing_left(base, far):
        async with raw(base) as caller:
            await caller.send(request("/pipelines/plain/queries?sse=true", {"request": "x"}))
            received = b""
            while received.count(b": ping") < 2:
                received += await caller.read()
        async with promised(1):
            await far.seen[0].gone.wait()


async def test_a_gateway_in_a_process_of_its_own_pings_every_form_of_silent_stream(
    tmp_path: Path,
) -> None:
    pinged: dict[str, asyncio.Semaphore] = {form: asyncio.Semaphore(0) for form in FORMS}

    async def script(seen: Seen, peer: Peer) -> None:
        mine = pinged[seen.headers["x-request-id"]]
        await mine.acquire()
        await peer.open_stream()
        await peer.chunk(frames(EVENTS[:3]))
        await mine.acquire()
        await peer.chunk(frames(EVENTS[3:]))
        await peer.end()

    async def call(base: str, form: str) -> str:
        path, body, headers = FORMS[form]
        text = ""
        async with (
            client(base) as session,
            session.post(path, json=body, headers=headers | {"X-Request-Id": form}) as response,
        ):
            async for piece in response.content.iter_any():
                for _ in range(piece.count(PING.encode())):
                    pinged[form].release()
                text += piece.decode()
        return text

    async with remote(script) as far, process(tmp_path, config(far.url)) as gateway, patience():
        texts = await asyncio.gather(*(call(gateway.base, form) for form in FORMS))
    for text in texts:
        assert text.startswith(PING)
        assert events_of(text)[: len(EVENTS)] == EVENTS


async def test_a_gateway_in_a_process_of_its_own_drops_who_reads_nothing_and_not_who_reads_slowly(
    tmp_path: Path,
) -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        while not seen.gone.is_set():
            await peer.chunk(frames(EVENTS[1:2]) * 100)

    async def read_slowly(caller: Raw) -> None:
        # So little that nothing more is written meanwhile: that it takes any, the system knows.
        while await caller.read(1024):
            await asyncio.sleep(0.02)

    asked = request("/pipelines/plain/queries?sse=true", {"request": "x"})
    async with (
        remote(script) as far,
        process(tmp_path, config(far.url, "15, write_timeout_s: 1")) as gateway,
        raw(gateway.base) as slow,
    ):
        await slow.send(asked)
        reading = asyncio.create_task(read_slowly(slow))
        for times in (1, 2):
            async with raw(gateway.base) as silent:
                await silent.send(asked)
                line = await gateway.said("request", times)
                assert line["error"] == "the client read nothing for 1 s"
        assert not reading.done()
        assert far.open_connections == 1
        reading.cancel()
