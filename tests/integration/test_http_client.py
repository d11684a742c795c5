"""The client of the two remote APIs: which answers it reads, which connections it keeps."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import aclosing

import pytest

from gateway.errors import GatewayError, UpstreamFailed
from gateway.upstreams.outgoing import Origin
from gateway.upstreams.pool import Pool
from tests.support.http_api import (
    CHUNKED,
    HEAD,
    WAYS,
    Way,
    api,
    ask,
    in_pieces,
    nothing_left,
    post,
    sending,
    until,
    whole,
)
from tests.support.remote import Peer, Seen, remote
from tests.support.scripts import answering

pytestmark = pytest.mark.usefixtures(nothing_left.__name__)


#: What is sent, whether the connection is closed then, and whether it is used again.
ANSWERS: dict[str, tuple[bytes, bool, bool]] = {
    "a length": (HEAD + b"Content-Length: 5\r\n\r\nhello", False, True),
    "chunks and trailers": (
        CHUNKED + b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n",
        False,
        True,
    ),
    "after 1xx": (
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 8 + HEAD + b"Content-Length: 5\r\n\r\nhello",
        False,
        True,
    ),
    "unframed": (HEAD + b"\r\nhello", True, False),
    "Connection: close": (
        HEAD + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
        False,
        False,
    ),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", False, False),
    "HTTP/1.0 kept": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        False,
        True,
    ),
    "more than it says": (HEAD + b"Content-Length: 5\r\n\r\nhello, you", False, False),
    "two answers": ((HEAD + b"Content-Length: 5\r\n\r\nhello") * 2, False, False),
    "gzip": (
        CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
        + b"19\r\n" + gzip.compress(b"hello", mtime=0) + b"\r\n0\r\n\r\n",
        False,
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("data", "close", "kept"), ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_is_read_and_its_connection_used_again_where_it_can_be(
    data: bytes, close: bool, kept: bool, way: Way
) -> None:
    connections = set()

    async def script(seen: Seen, peer: Peer) -> None:
        connections.add(peer.writer)
        await sending(data, close=close)(seen, peer)

    async with remote(script) as far, api(far.url) as given:
        for _ in range(3):
            with await post(given) as answer:
                assert answer.content_type in ("application/json", "application/octet-stream")
                assert await way(answer) == b"hello"
        assert len(connections) == (1 if kept else 3)
        assert len(far.seen) == 3
        assert far.seen[0].headers["x-api-key"] == "secret"
        assert far.seen[0].body == b'{"text":"x"}'


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_a_long_answer_is_the_same_however_it_is_read(way: Way, coding: str) -> None:
    text = b"".join(b"%d," % number for number in range(200_000))
    data = gzip.compress(text, 1) if coding == "gzip" else text

    async def script(seen: Seen, peer: Peer) -> None:
        head = (
            CHUNKED if "chunks" in seen.path else HEAD + b"Content-Length: %d\r\n\r\n" % len(data)
        )
        await peer.send(
            head.replace(b"\r\n\r\n", f"\r\nContent-Encoding: {coding}\r\n\r\n".encode())
        )
        if "chunks" not in seen.path:
            await peer.send(data)
            return
        for start in range(0, len(data), 70_001):
            await peer.chunk(data[start : start + 70_001])
        await peer.end()

    async with remote(script) as far, api(far.url) as given:
        for path in ("/length", "/chunks", "/length"):
            with await post(given, path=path) as answer:
                assert await way(answer) == text


#: What is sent before the connection is closed, and what the error says.
BROKEN: dict[str, tuple[bytes, str]] = {
    "in the status line": (b"HTTP/1.", "broke off in mid-answer"),
    "in the head": (HEAD, "broke off in mid-answer"),
    "after a 1xx": (b"HTTP/1.1 100 Continue\r\n\r\n", "broke off in mid-answer"),
    "in the body": (HEAD + b"Content-Length: 9\r\n\r\nhello", "broke off in mid-answer"),
    "in a chunk": (CHUNKED + b"9\r\nhello", "broke off in mid-answer"),
    "before the last chunk": (CHUNKED + b"5\r\nhello\r\n", "broke off in mid-answer"),
    "in the compressed body": (
        HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"hello" * 99)[:-9],
        "its compressed answer was cut short",
    ),
    "no gzip": (HEAD + b"Content-Encoding: gzip\r\n\r\nhello", "not compressed as its header"),
    "brotli": (HEAD + b"Content-Encoding: br\r\n\r\nhello", 'content coding "br" is not'),
    "garbage": (b"220 mail.example ESMTP\r\n", "its answer is not HTTP"),
    "garbage in a body": (CHUNKED + b"5\r\nhello\r\nmore\r\n", "its answer is not HTTP"),
    "101": (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", "its answer is not HTTP"),
    "too long": (HEAD + b"Content-Length: 2000\r\n\r\n" + b"x" * 2000, "longer than answer_bytes"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("data", "said"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_answer_is_an_error_and_is_not_asked_for_again(
    data: bytes, said: str, way: Way
) -> None:
    good = answering(b"{}")

    async def script(seen: Seen, peer: Peer) -> None:
        await (good if seen.path == "/good" else sending(data, close=True))(seen, peer)

    async with remote(script) as far, api(far.url, answer_bytes_max=1000) as given:
        for kept in (False, True):
            if kept:
                with await post(given, path="/good") as answer:
                    await answer.read()
            asked = len(far.seen)
            if said.startswith("longer") and way is not whole:
                continue  # whoever takes it piece by piece bounds the pieces
            with pytest.raises(UpstreamFailed, match=said) as info:
                await ask(given, way)
            assert info.value.message.startswith("upstream far: ")
            assert len(far.seen) == asked + 1
        await until(lambda: far.open_connections <= 1)  # the one that was kept


async def test_what_came_before_a_break_is_handed_on_first() -> None:
    events = [b"data: 1\n\n", b"data: 2\n\n"]
    data = CHUNKED + b"".join(b"9\r\n%b\r\n" % event for event in events) + b"9\r\ndat"
    async with remote(sending(data, close=True)) as far, api(far.url) as given:
        taken: list[bytes] = []
        with await post(given) as answer, pytest.raises(UpstreamFailed, match="mid-answer"):
            await answer.relay(taken.append)
        assert b"".join(taken) == b"".join(events) + b"dat"
        with await post(given) as answer:
            async with aclosing(answer.pieces()) as pieces:
                first = await anext(pieces)
                assert first.startswith(events[0])
                with pytest.raises(UpstreamFailed, match="mid-answer"):
                    await in_pieces(answer)


async def test_a_connection_closed_before_it_answers_is_told_apart_and_not_asked_again() -> None:
    async def cut(seen: Seen, peer: Peer) -> None:
        peer.cut()

    async with remote(cut) as far, api(far.url) as given:
        with pytest.raises(UpstreamFailed, match="closed the connection before it answered"):
            await post(given)
        assert len(far.seen) == 1  # it was a new one: nothing had gone stale


async def test_work_that_a_kept_connection_may_have_begun_is_not_asked_for_twice() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        if len(far.seen) > 1:
            await asyncio.sleep(1.05)
            peer.cut()
        else:
            await answering(b"{}")(seen, peer)

    async with remote(script) as far, api(far.url) as given:
        with await post(given) as answer:
            await answer.read()
        with pytest.raises(UpstreamFailed, match="closed the connection before it answered"):
            await post(given)
        assert len(far.seen) == 2


@pytest.mark.parametrize("unasked", [b"", b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n"])
async def test_an_idle_connection_that_says_something_or_ends_is_never_used(unasked: bytes) -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await answering(b"{}")(seen, peer)
        if len(far.seen) == 1:
            ends.append(peer)

    ends: list[Peer] = []
    async with remote(script) as far, api(far.url) as given:
        with await post(given) as answer:
            await answer.read()
        if unasked:
            await ends[0].send(unasked)
        else:
            ends[0].writer.close()
        await until(lambda: far.open_connections == 0)
        with await post(given) as answer:
            assert await answer.read() == b"{}"
        assert len(far.seen) == 2


async def test_the_connection_that_was_used_last_is_used_first_and_old_ones_are_closed() -> None:
    async with remote(answering(b"{}")) as far:
        pool = Pool(Origin(far.url), kept_s=0.05)
        first, second = await pool.connect(), await pool.connect()
        assert pool.take() is None
        pool.keep(first)
        pool.keep(second)
        assert pool.take() is second
        await until(lambda: far.open_connections == 1)  # the first was kept for so long only
        assert first.closed
        assert not second.closed
        assert pool.take() is None
        await pool.close()
        assert second.closed


async def test_where_a_name_has_two_addresses_the_one_that_accepts_is_used() -> None:
    async with remote(answering(b"{}")) as far:  # on 127.0.0.1 alone
        async with api(f"http://localhost:{far.port}") as given:
            with await given.get("/", request_id="r", connect_s=5.0) as answer:
                assert await answer.read() == b"{}"
        assert far.seen[0].headers["host"] == f"localhost:{far.port}"


async def test_an_error_that_never_ends_is_told_by_its_status() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.send(
            b"HTTP/1.1 500 Oops\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\n<html"
        )
        await seen.gone.wait()

    async with remote(script) as far, api(far.url) as given:
        with pytest.raises(GatewayError, match="answered 500 with text/html"):
            await post(given)
        await until(lambda: far.open_connections == 0)
