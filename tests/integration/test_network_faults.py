"""A network that fails on purpose: the caller learns what happened, and nothing is left over.

A proxy that breaks connections stands between a gateway and real upstreams: scripted HTTP ones, and
a real Triton over both of its protocols.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.support.client import check_stream, read_events
from tests.support.faultproxy import Act, Fault, FaultProxy, fault_proxy
from tests.support.leftovers import nothing_left, peak_bytes
from tests.support.remote import Peer, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import EVENTS, cambrion_script, frames, pupau_script
from tests.support.timing import promised
from tests.triton_server import Triton

CONFIG = """
bounds: {{event_bytes_max: 1000000}}
upstreams:
  far:
    kind: {kind}
    url: "{url}"
    breaker: {{failures: 0, calls_min: 1000}}
    retries: {{retries_max: 0}}
pipelines:
  p:
    upstream: far
    timeouts: {timeouts}
    {target}
"""
SHORT = "{connect_s: 0.3, first_event_s: 0.5, idle_s: 0.5}"
#: The demo model that streams the words of its text, with a pause between them.
STREAM = 'pipeline: stream\n    inputs: {TEXT: text, DELAY_S: "0.05"}'

STREAMS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "execute-stream": (
        "/v1/pipelines/p/executeSync",
        {"text": "one two three"},
        {"Accept": "text/event-stream"},
    ),
    "query-stream": ("/pipelines/p/queries?sse=true", {"request": "one two three"}, {}),
}
#: How a caller asks: path, body, headers.
FORMS = STREAMS | {
    "execute": ("/v1/pipelines/p/executeSync", {"text": "one two three"}, {}),
    "query": ("/pipelines/p/queries", {"request": "one two three"}, {}),
}


@dataclass(frozen=True, slots=True)
class Way:
    """An upstream behind the proxy: what the configuration calls it, and whether its bytes show in
    the middle of an event that it is alive."""

    kind: str
    url: Callable[[FaultProxy], str]
    target: str = ""
    head: bytes = b""
    alive_in_mid_event: bool = False


WAYS = {
    "cambrion": Way("cambrion", lambda proxy: f"{proxy.url}/v1", head=b"HTTP/1.1 2"),
    "pupau": Way("pupau", lambda proxy: proxy.url, head=b"HTTP/1.1 2", alive_in_mid_event=True),
    "triton-http": Way("triton", lambda proxy: proxy.url, STREAM, head=b"HTTP/1.1 2"),
    "triton-grpc": Way("triton", lambda proxy: proxy.grpc_url, STREAM),
}
STREAMING = ["pupau", "triton-http", "triton-grpc"]


@asynccontextmanager
async def behind_a_proxy(
    name: str, triton: Triton, timeouts: str = SHORT
) -> AsyncIterator[tuple[FaultProxy, str, aiohttp.ClientSession]]:
    """A gateway whose upstream is reached through the proxy, warm: it has been called once."""
    way = WAYS[name]
    script = {"cambrion": cambrion_script, "pupau": pupau_script}.get(name, pupau_script)
    async with remote(script) as far:
        port = {"triton-http": triton.http_port, "triton-grpc": triton.grpc_port}.get(name)
        async with fault_proxy(port or far.port) as proxy:
            config = CONFIG.format(
                kind=way.kind, url=way.url(proxy), target=way.target, timeouts=timeouts
            )
            async with gateway(config) as base, client(base) as session:
                await works(session)
                yield proxy, base, session


async def works(session: aiohttp.ClientSession) -> None:
    """The next stream is whole, or the one after it within five seconds."""
    path, body, headers = STREAMS["query-stream"]
    async with promised(5):
        while True:
            async with session.post(path, json=body, headers=headers) as response:
                if response.status == 200:
                    assert check_stream(await read_events(response))
                    return
            await asyncio.sleep(0.05)


async def ask(session: aiohttp.ClientSession, form: str) -> tuple[int, dict[str, Any]]:
    path, body, headers = FORMS[form]
    async with session.post(path, json=body, headers=headers) as response:
        answer: dict[str, Any] = await response.json()
        return response.status, answer


BEFORE_THE_FIRST_EVENT: list[tuple[str, Fault, int]] = [
    ("reset", Fault(Act.RESET), 502),
    ("half-closed", Fault(Act.HALF_CLOSE), 502),
    ("black hole", Fault(Act.SWALLOW), 504),
    ("a byte a second", Fault(Act.DRIP), 504),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("fault", "status"),
    [case[1:] for case in BEFORE_THE_FIRST_EVENT],
    ids=[case[0] for case in BEFORE_THE_FIRST_EVENT],
)
async def test_a_connection_that_fails_before_the_first_event_has_its_status(
    way: str, fault: Fault, status: int, triton: Triton
) -> None:
    async with behind_a_proxy(way, triton) as (proxy, base, session):
        async with nothing_left(base, proxy), client(base) as callers:
            proxy.strike(fault)
            answers = await asyncio.gather(*(ask(callers, form) for form in FORMS))
        for form, (got, answer) in zip(FORMS, answers, strict=True):
            assert got == status, answer
            assert set(answer) == {"name" if form.startswith("query") else "code", "message"}
            assert "upstream far" in answer["message"]
            if status == 504:
                assert "0.5 s" in answer["message"]
        proxy.strike(Fault())
        await proxy.reset_all()
        await works(session)


@pytest.mark.parametrize("way", [name for name, way in WAYS.items() if way.head])
@pytest.mark.parametrize("act", [Act.RESET, Act.SWALLOW])
async def test_a_connection_that_fails_in_the_head_of_the_answer_has_its_status(
    way: str, act: Act, triton: Triton
) -> None:
    async with behind_a_proxy(way, triton) as (proxy, base, session):
        async with nothing_left(base, proxy), client(base) as callers:
            proxy.strike(Fault(act, mark=WAYS[way].head))
            status, answer = await ask(callers, "query-stream")
        assert status == (504 if act is Act.SWALLOW else 502), answer
        assert "upstream far" in answer["message"]
        proxy.strike(Fault())
        await works(session)


@pytest.mark.parametrize("way", WAYS)
async def test_an_upstream_that_accepts_nobody_is_given_up_after_connect_s(
    way: str, triton: Triton
) -> None:
    async with behind_a_proxy(way, triton) as (proxy, base, session):
        async with nothing_left(base, proxy), client(base) as callers:
            await proxy.reset_all()
            await asyncio.sleep(0.1)  # the gateway learns of it
            async with proxy.not_accepting():
                answers = await asyncio.gather(*(ask(callers, form) for form in FORMS))
        for status, answer in answers:
            assert status == 504, answer
            assert "connect_s" in answer["message"]
        await works(session)


async def test_an_upstream_that_accepts_late_is_waited_for(triton: Triton) -> None:
    patient = "{connect_s: 8}"
    async with behind_a_proxy("pupau", triton, patient) as (proxy, _, session):
        await proxy.reset_all()
        await asyncio.sleep(0.1)
        async with proxy.not_accepting():
            asked = asyncio.create_task(ask(session, "query"))
            await asyncio.sleep(0.3)
        status, answer = await asked
    assert status == 200, answer


@dataclass(frozen=True, slots=True)
class Cut:
    """What breaks a stream in the middle of its second piece, and what the caller is told."""

    act: Act
    name: str
    said: str = ""


CUTS = [
    Cut(Act.RESET, "UpstreamFailed"),
    Cut(Act.HALF_CLOSE, "UpstreamFailed"),
    Cut(Act.SWALLOW, "UpstreamTimeout", "sent nothing within 0.5 s (idle_s)"),
]


async def broken_stream(
    session: aiohttp.ClientSession, form: str, way: str
) -> tuple[str, dict[str, str]]:
    """Ask for a stream that fails in mid-event: the text before, and the error that ends it."""
    path, body, headers = STREAMS[form]
    async with session.post(path, json=body, headers=headers) as response:
        assert response.status == 200
        events = await read_events(response)
    if way == "pupau":
        assert events[:2] == EVENTS[:2]
    last = events[-1]
    assert (last["type"], last["last"]) == ("LAYER_RESPONSE", True)
    assert [event.get("last") for event in events].count(True) == 1
    (response_of_actor,) = last["responses"]
    (error,) = response_of_actor["errors"]
    pieces = [event for event in events if event["type"] == "STREAMING_RESPONSE"]
    return "".join(piece["message"] for piece in pieces), error


def middle(way: str) -> bytes:
    """Bytes within the second piece of text."""
    return b'"message": "tw' if way == "pupau" else b"tw"


@pytest.mark.parametrize("way", STREAMING)
@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.act.name)
async def test_a_stream_whose_connection_fails_in_mid_event_ends_with_the_error(
    way: str, cut: Cut, triton: Triton
) -> None:
    async with behind_a_proxy(way, triton) as (proxy, base, session):
        # Only where events may pass untouched does it matter who asks.
        for form in STREAMS if way == "pupau" else ["query-stream"]:
            async with nothing_left(base, proxy), client(base) as callers:
                proxy.strike(Fault(cut.act, mark=middle(way)))
                text, error = await broken_stream(callers, form, way)
            assert text.strip() in ("on", "one"), "whole pieces, and none after the fault"
            assert error["name"] == cut.name
            assert error["message"].startswith("upstream far")
            assert cut.said in error["message"]
            proxy.strike(Fault())
            await proxy.reset_all()
            await works(session)


@pytest.mark.parametrize("way", STREAMING)
async def test_a_byte_at_a_time_is_alive_but_not_for_ever(way: str, triton: Triton) -> None:
    timeouts = "{first_event_s: 1, idle_s: 1, stream_total_s: 2.5}"
    async with behind_a_proxy(way, triton, timeouts) as (proxy, base, session):
        async with nothing_left(base, proxy), client(base) as callers:
            proxy.strike(Fault(Act.DRIP, mark=middle(way), interval_s=0.1))
            _, error = await broken_stream(callers, "query-stream", way)
        # What arrives of an event shows only where the gateway reads the bytes itself.
        key = "stream_total_s" if WAYS[way].alive_in_mid_event else "idle_s"
        assert error["name"] == "UpstreamTimeout"
        assert f"({key})" in error["message"]
        proxy.strike(Fault())
        await proxy.reset_all()
        await works(session)


@pytest.mark.parametrize("chunked", [True, False])
async def test_an_upstream_that_closes_its_side_after_the_last_event_has_answered(
    chunked: bool,
) -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        if chunked:
            await peer.open_stream()
            await peer.chunk(frames(EVENTS))
            await peer.end()
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            await peer.send(frames(EVENTS))
        peer.writer.write_eof()
        await seen.gone.wait()

    config = CONFIG.format(kind="pupau", url="{url}", target="", timeouts=SHORT)
    async with (
        remote(script) as far,
        gateway(config.replace("{url}", far.url)) as base,
        nothing_left(base, far),
        client(base) as callers,
    ):
        for path, body, headers in STREAMS.values():
            async with callers.post(path, json=body, headers=headers) as response:
                assert check_stream(await read_events(response)) == {"c": "Hello wörld"}


PIECE = b"x" * (1 << 20)
PIECES = 1024


class Pushing:
    """An upstream that begins a stream, then pushes a gigabyte without a line's end."""

    def __init__(self, start: bytes, *, zipped: bool) -> None:
        self.sent = 0
        self.start, self.piece, self.coding = frames(EVENTS[:2]) + start, PIECE, b""
        if zipped:
            packer = zlib.compressobj(wbits=31)
            # A full flush forgets what came before: the same bytes may follow again and again.
            self.start, self.piece = (
                packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)
                for data in (self.start, PIECE)
            )
            self.coding = b"Content-Encoding: gzip\r\n"

    async def script(self, seen: Seen, peer: Peer) -> None:
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n" % self.coding
        )
        for data in (self.start, *[self.piece] * PIECES):
            await peer.send(data)
            self.sent += len(data)
        await seen.gone.wait()


@pytest.mark.parametrize("form", STREAMS)
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip bomb"])
@pytest.mark.parametrize("start", [b"data: ", b": "], ids=["event", "comment"])
async def test_a_gigabyte_without_a_line_end_is_cut_at_event_bytes_max(
    form: str, zipped: bool, start: bytes
) -> None:
    pushing = Pushing(start, zipped=zipped)
    config = CONFIG.format(kind="pupau", url="{url}", target="", timeouts=SHORT)
    async with (
        remote(pushing.script) as far,
        gateway(config.replace("{url}", far.url)) as base,
        nothing_left(base, far),
        client(base) as callers,
    ):
        before = peak_bytes(begin=True)
        _, error = await broken_stream(callers, form, "pupau")
        grown = peak_bytes() - before
    assert error["name"] == "UpstreamInvalid"
    assert "event_bytes_max" in error["message"] or "1000000" in error["message"]
    assert pushing.sent < 16_000_000
    assert grown < 32_000_000


async def test_garbage_of_failed_runs_may_be_collected_on_any_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refusing(seen: Seen, peer: Peer) -> None:
        await peer.answer(b"{}", "500 Oops")

    config = CONFIG.format(kind="pupau", url="{url}", target="", timeouts=SHORT)
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    gc.collect()
    gc.disable()
    try:
        async with (
            remote(refusing) as far,
            gateway(config.replace("{url}", far.url)) as base,
            client(base) as callers,
        ):
            for form in FORMS:
                assert (await ask(callers, form))[0] == 502
        # What a failure's traceback refers to is found here, compiled expressions among it.
        await asyncio.to_thread(gc.collect)
    finally:
        gc.enable()
    assert not complaints
