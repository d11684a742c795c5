"""Clients that are slow to ask or slow to take the answer: others do not wait for them."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.leftovers import nothing_left
from tests.support.raw import Raw, answer, raw, request
from tests.support.remote import Peer, Remote, Script, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import EVENTS, OBSERVATION, cambrion_script, frames, pupau_script
from tests.support.timing import Stopwatch, patience, until

CONFIG = """
server: {{port: 0, {server}}}
upstreams:
  far: {{kind: pupau, url: "{url}"}}
  docs: {{kind: cambrion, url: "{url}/v1"}}
pipelines:
  plain: {{upstream: far, timeouts: {{idle_s: 0.3}}}}
  touched: {{upstream: far, transform: {{event: "$"}}}}
  grown:
    upstream: far
    timeouts: {{idle_s: 0.3}}
    transform: {{event: '$merge([$, {{"pad": $pad("", 1000000, "x")}}])'}}
  doc: {{upstream: docs}}
"""
STREAM = request("/pipelines/plain/queries?sse=true", {"request": "x"})
STREAMS = pytest.mark.parametrize(
    "asked",
    [
        STREAM,
        request("/pipelines/touched/queries?sse=true", {"request": "x"}),
        request("/v1/pipelines/plain/executeSync", {"text": "x"}, "Accept: text/event-stream"),
    ],
    ids=["frames", "events", "execute"],
)
#: Many small events, so that what is counted is not one of them.
PIECE = frames(EVENTS[1:2]) * 200
#: What the system itself takes in between gateway and client, and upstream and gateway, bytes.
SYSTEM_BYTES = 20_000_000


@asynccontextmanager
async def running(script: Script, server: str) -> AsyncIterator[tuple[Remote, str]]:
    async with remote(script) as far, gateway(CONFIG.format(url=far.url, server=server)) as base:
        yield far, base


class Flood:
    """An upstream that pushes as fast as it can, and counts the bytes."""

    def __init__(self, bytes_max: int = 1_000_000_000) -> None:
        self.sent = 0
        self._bytes_max = bytes_max

    async def script(self, seen: Seen, peer: Peer) -> None:
        peer.writer.transport.set_write_buffer_limits(0)
        await peer.open_stream()
        await peer.chunk(frames(EVENTS[:1]))
        while self.sent < self._bytes_max and not seen.gone.is_set():
            await peer.chunk(PIECE)
            self.sent += len(PIECE)
        await peer.chunk(frames(EVENTS[1:]))
        await peer.end()

    async def stalled(self) -> None:
        """Return once it has been held back for a while."""
        before = looks = 0
        async with patience():
            # Not in time, which a busy machine may take away, but in turns that it had.
            while looks < 30:
                looks = looks + 1 if before == self.sent and before else 0
                before = self.sent
                await asyncio.sleep(0.01)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def dropped(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    fields = [record.__dict__.get("fields", {}) for record in caplog.records]
    return [each for each in fields if each.get("outcome") == "client_gone"]


@STREAMS
async def test_a_client_that_reads_nothing_holds_back_the_upstream_and_is_dropped(
    asked: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    flood = Flood()
    caplog.set_level(logging.INFO)
    async with (
        running(flood.script, "write_timeout_s: 1.5") as (far, base),
        nothing_left(base, far),
        AsyncExitStack() as stack,
    ):
        callers = [await stack.enter_async_context(raw(base)) for _ in range(4)]
        before = resident_bytes()
        for caller in callers:
            await caller.send(asked)
        await flood.stalled()
        sent = flood.sent
        await asyncio.sleep(0.3)
        assert flood.sent == sent < len(callers) * SYSTEM_BYTES
        # Of this whole process, to which both ends of every connection belong.
        assert resident_bytes() - before < len(callers) * 2_000_000
        await until(lambda: not far.open_connections)
        async with patience():
            await asyncio.gather(*(caller.read_all() for caller in callers))
        lines = dropped(caplog)
    assert [line["error"] for line in lines] == ["the client read nothing for 1.5 s"] * 4


async def test_a_client_that_reads_slowly_is_not_dropped_and_gets_everything() -> None:
    flood = Flood(bytes_max=6_000_000)
    async with (
        running(flood.script, "write_timeout_s: 0.8") as (_, base),
        raw(base) as caller,
    ):
        await caller.send(STREAM)
        began, received = time.monotonic(), 0
        tail = b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            piece = await caller.read(100_000)
            assert piece, "dropped"
            received += len(piece)
            tail = (tail + piece)[-10:]
            if time.monotonic() - began < 2:  # more than twice what one that reads nothing has
                await asyncio.sleep(0.05)
        assert time.monotonic() - began > 2
        assert received > 6_000_000


async def test_no_limit_counts_once_the_upstream_has_said_all() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.answer(frames(EVENTS), content_type="text/event-stream")  # one read

    async with running(script, "write_timeout_s: 60") as (_, base), raw(base) as caller:
        asked = "/pipelines/grown/queries?sse=true"
        await caller.send(request(asked, {"request": "x"}, "Connection: close"))
        await caller.read(1)
        await asyncio.sleep(0.8)  # longer than the upstream may say nothing
        text = await caller.read_all()
    assert text.endswith(b"\r\n0\r\n\r\n")
    assert text.count(b'"pad"') == len(EVENTS)


async def test_a_client_that_is_waited_for_gets_no_pings() -> None:
    flood = Flood(bytes_max=8_000_000)
    async with running(flood.script, "heartbeat_s: 0.1") as (_, base), raw(base) as caller:
        await caller.send(STREAM.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        await flood.stalled()
        assert flood.sent < 8_000_000
        text = await caller.read_all()
    assert text.endswith(b"\r\n0\r\n\r\n")
    assert b": ping" not in text


async def test_a_plain_answer_that_nobody_reads_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = json.dumps({"executionId": "e", "observation": OBSERVATION | {"x": "y" * 20_000_000}})

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.answer(body.encode(), headers=("Connection: close",))

    caplog.set_level(logging.INFO)
    async with (
        running(script, "write_timeout_s: 0.4") as (far, base),
        nothing_left(base, far),
        raw(base) as caller,
    ):
        await caller.send(request("/v1/pipelines/doc/executeSync", {"text": "x"}))
        await until(lambda: dropped(caplog))
        assert dropped(caplog)[0]["error"] == "the client read nothing for 0.4 s"
        assert len(await caller.read_all()) < len(body)


async def test_small_answers_to_a_client_that_reads_nothing_are_given_up_too() -> None:
    async with running(cambrion_script, "write_timeout_s: 0.4") as (far, base):
        before = far.open_connections
        async with nothing_left(base), raw(base) as caller:
            # Requests upon requests, of which each answer is too small to hold anything back.
            asked = request("/v1/pipelines") * 100

            async def send() -> None:
                while True:
                    await caller.send(asked)

            sending = asyncio.create_task(send())
            async with patience():
                result = await asyncio.gather(sending, return_exceptions=True)
            assert isinstance(result[0], ConnectionError)
        assert far.open_connections == before


async def test_a_stream_that_floods_leaves_another_one_its_pace() -> None:
    flood = Flood()
    sent: list[Stopwatch] = []

    async def script(seen: Seen, peer: Peer) -> None:
        if seen.headers["x-request-id"] == "flood":
            await flood.script(seen, peer)
            return
        await peer.open_stream()
        while not seen.gone.is_set():
            sent.append(Stopwatch())
            await peer.chunk(frames(EVENTS[1:2]))
            await asyncio.sleep(0.02)

    async with (
        running(script, "heartbeat_s: 15") as (_, base),
        client(base) as session,
    ):
        path = "/pipelines/touched/queries?sse=true"
        headers = {"X-Request-Id": "flood"}
        body = {"request": "x"}
        async with session.post(path, json=body, headers=headers) as fast:

            async def drain() -> None:
                async for _ in fast.content.iter_any():
                    pass

            draining = asyncio.create_task(drain())
            late = []
            async with session.post(path, json=body, headers={"X-Request-Id": "slow"}) as slow:
                for number in range(40):
                    await slow.content.readuntil(b"\n\n")
                    late.append(sent[number].passed_s())
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
    assert flood.sent > 1_000_000
    # Upstreams, gateway and readers share this loop.
    assert sorted(late)[20] < 0.1


# Slow to ask

HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
SLOW = "header_timeout_s: 0.4, body_timeout_s: 0.4, body_bytes_per_s_min: 100"


async def drip(caller: Raw, data: bytes, every_s: float = 0.05) -> None:
    """Send ``data`` byte by byte until it is all sent or the gateway has closed."""
    try:
        for byte in data:
            await caller.send(bytes([byte]))
            await asyncio.sleep(every_s)
    except ConnectionError:
        pass  # it was cut off, which is what these tests are about


@pytest.mark.parametrize("every_s", [0.03, 60.0])
async def test_a_head_that_does_not_come_to_its_end_is_answered_408(every_s: float) -> None:
    async with running(pupau_script, SLOW) as (_, base), raw(base) as caller:
        began, answered = time.monotonic(), Stopwatch()
        sending = asyncio.create_task(drip(caller, HEAD + b"X-Filler: " + b"x" * 1000, every_s))
        status, fields, body = answer(await caller.read_all())
        took_s = time.monotonic() - began
        assert answered.passed_s() < 1.5
        sending.cancel()
    assert status == 408
    assert fields["connection"] == "close"
    told = json.loads(body)
    assert (told["code"], told["name"]) == ("request_timeout", "RequestTimeout")
    assert "header_timeout_s" in told["message"]
    assert took_s >= 0.4


async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word() -> None:
    async with (
        running(pupau_script, SLOW) as (_, base),
        nothing_left(base),
        raw(base) as caller,
        patience(),
    ):
        assert await caller.read_all() == b""


async def test_a_kept_connection_may_rest_but_its_next_head_may_not() -> None:
    async with running(pupau_script, SLOW) as (_, base), raw(base) as caller:
        for end in (b"\r\n", b"\r\n\r\n\r\n"):  # some clients write a line too many
            await caller.send(HEAD + end)
            assert (await caller.read()).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.6)
        await caller.send(HEAD)
        async with patience():
            assert answer(await caller.read_all())[0] == 408


async def test_a_head_that_follows_too_early_does_not_end_the_request_before_it() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await asyncio.sleep(1.2)
        await pupau_script(seen, peer)

    async with running(script, SLOW) as (_, base), raw(base) as caller:
        await caller.send(request("/pipelines/plain/queries", {"request": "x"}))
        await asyncio.sleep(0.1)
        await caller.send(HEAD)
        async with patience():
            first, _, second = (await caller.read_all()).partition(b"HTTP/1.1 408")
    status, _, body = answer(first)
    assert (status, json.loads(body)) == (200, EVENTS[-1]["responses"])
    assert second


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="request"\r\n\r\nhello\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
)
BODIES = {
    "execute": ("/v1/pipelines/doc/executeSync", b'{"text": "', (), "code"),
    "query": ("/pipelines/plain/queries", b'{"request": "', (), "name"),
    "stream": ("/pipelines/plain/queries?sse=true", b'{"request": "', (), "name"),
    "form": (
        "/pipelines/plain/queries",
        FORM,
        ("Content-Type: multipart/form-data; boundary=b",),
        "name",
    ),
}


@pytest.mark.parametrize("form", BODIES)
async def test_a_body_that_comes_too_slowly_is_answered_408_in_the_callers_dialect(
    form: str,
) -> None:
    path, begun, headers, field = BODIES[form]
    async with running(pupau_script, SLOW) as (far, base), nothing_left(base, far):
        async with raw(base) as caller:
            began, answered = time.monotonic(), Stopwatch()
            await caller.send(request(path, begun, *headers, length=5000))
            sending = asyncio.create_task(drip(caller, b"x" * 1000, 0.03))
            status, fields, body = answer(await caller.read_all())
            took_s = time.monotonic() - began
            assert answered.passed_s() < 3.5
            sending.cancel()
        assert far.seen == []
    assert status == 408
    assert fields["connection"] == "close"
    told = json.loads(body)
    assert set(told) == {field, "message"}
    assert told[field] == {"code": "request_timeout", "name": "RequestTimeout"}[field]
    assert "body_bytes_per_s_min" in told["message"]
    # The limit, and a second for each hundred bytes that came; nothing of lingering.
    assert took_s >= 0.4


@pytest.mark.parametrize("form", ["query", "form"])
async def test_a_long_body_may_take_its_time_as_long_as_it_keeps_the_pace(form: str) -> None:
    path, begun, headers, _ = BODIES[form]
    end = b"\r\n--b--\r\n" if form == "form" else b'"}'
    async with running(pupau_script, SLOW) as (_, base), raw(base) as caller:
        pieces = [begun + b"x" * 200, *[b"x" * 80] * 8, end]
        length = sum(map(len, pieces))
        await caller.send(request(path, pieces[0], *headers, "Connection: close", length=length))
        for piece in pieces[1:]:
            await asyncio.sleep(0.15)
            await caller.send(piece)
        assert answer(await caller.read_all())[0] == 200


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for both ends of a thousand connections, which are in this process."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, most), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


async def test_a_thousand_slow_clients_keep_nobody_waiting_and_are_gone_in_time(
    many_files: None,
) -> None:
    slow = "header_timeout_s: 3, body_timeout_s: 3, body_bytes_per_s_min: 1000"
    async with AsyncExitStack() as stack:
        far, base = await stack.enter_async_context(running(pupau_script, slow))
        callers = [await stack.enter_async_context(raw(base)) for _ in range(1000)]
        path, begun, headers, _ = BODIES["query"]
        for number, caller in enumerate(callers):
            whole = request(path, begun, *headers, length=5000)
            await caller.send(HEAD if number % 2 else whole)
        dripping = asyncio.create_task(_drip_on(callers))
        session = await stack.enter_async_context(client(base))
        took_s = []
        for _ in range(60):
            answered = Stopwatch()
            async with session.post("/pipelines/plain/queries", json={"request": "x"}) as response:
                assert response.status == 200
                await response.read()
            took_s.append(answered.passed_s())
            await asyncio.sleep(0.02)
        assert max(took_s) < 1
        assert sorted(took_s)[30] < 0.1
        async with patience():
            answers = await asyncio.gather(*(caller.read_all() for caller in callers))
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        assert {received[:12] for received in answers} == {b"HTTP/1.1 408"}
        assert len(far.seen) == 60


async def _drip_on(callers: list[Raw]) -> None:
    """Send a byte on each of the connections again and again."""
    while True:
        for caller in callers:
            try:
                await caller.send(b"x")
            except ConnectionError:
                continue  # it was cut off, as it should be
        await asyncio.sleep(0.5)
