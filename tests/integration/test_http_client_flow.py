"""The client of the two remote APIs under way: large bodies, slow ends, relays, cancelling."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from gateway.errors import UpstreamFailed
from gateway.upstreams.outgoing import Body
from tests.support.http_api import (
    CHUNKED,
    FLOOD,
    HEAD,
    SMALL,
    WAYS,
    Way,
    api,
    ask,
    flood,
    in_pieces,
    large,
    listening,
    nothing_left,
    post,
    settled,
    stream,
    until,
)
from tests.support.remote import Peer, Seen, remote
from tests.support.scripts import answering

pytestmark = pytest.mark.usefixtures(nothing_left.__name__)


class Counted(Body):
    """A body that knows how many of its pieces were asked for."""

    taken = 0

    def pieces(self) -> Iterator[bytes | memoryview]:
        for piece in super().pieces():
            self.taken += 1
            yield piece


async def test_a_large_body_arrives_whole_and_its_connection_is_kept() -> None:
    async with remote(answering(b"{}")) as far, api(far.url) as given:
        for _ in range(2):
            with await post(given, large(20)) as answer:
                assert await answer.read() == b"{}"
        assert [len(seen.body) for seen in far.seen] == [20 * 256 * 1024] * 2
        assert far.open_connections == 1


#: A large body of few pieces, and one of many.
BODIES = {"few": large(40), "many": Body("application/json", [b"x" * 100] * 20_000)}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_others_get_their_turn_while_a_large_body_is_sent(body: Body) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with remote(answering(b"{}")) as far, api(far.url) as given:
        counting = asyncio.create_task(count())
        with await post(given, body) as answer:
            await answer.read()
        counting.cancel()
    assert turns >= sum(1 for _ in body.pieces())


WHOLE = b'Content-Length: 20\r\n\r\n{"message":"no way"}'
#: What is answered before the body has been read, whether it is read on, and what is read of it.
EARLY: dict[str, tuple[bytes, bool, bytes]] = {
    "whole": (HEAD + WHOLE, True, b'{"message":"no way"}'),
    "whole, and closed": (HEAD + WHOLE, False, b'{"message":"no way"}'),
    "begun": (CHUNKED + b"5\r\nhello\r\n", True, b"hello"),
    "refused": (b"HTTP/1.1 413 Too Large\r\n" + WHOLE, True, b""),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(("data", "reads", "read"), EARLY.values(), ids=EARLY)
async def test_an_answer_that_comes_early_ends_the_sending(
    data: bytes, reads: bool, read: bytes, body: Body
) -> None:
    over = asyncio.Event()
    received = 0

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        try:
            while reads and (more := await reader.read(1 << 20)):
                received += len(more)
        finally:
            over.set()

    async with listening(early) as url, api(url) as given:
        if not read:
            with pytest.raises(UpstreamFailed, match="answered 413: no way"):
                await post(given, body)
        else:
            with await post(given, body) as answer:
                async with aclosing(answer.pieces()) as pieces:
                    assert await anext(pieces) == read
        await over.wait()  # the connection is of no more use
    assert received < body.length


async def test_an_upstream_that_answers_and_reads_nothing_is_heard() -> None:
    heard = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await settled(lambda: body.taken)
        writer.write(CHUNKED + b"5\r\nhello\r\n")
        await heard.wait()

    body = Counted("application/json", large(160).segments, base64=True)
    async with listening(deaf) as url, api(url) as given:
        with await post(given, body) as answer:
            async with aclosing(answer.pieces()) as pieces:
                assert await anext(pieces) == b"hello"
        heard.set()


async def test_an_upstream_that_hangs_up_and_reads_nothing_is_an_error_at_once() -> None:
    over = asyncio.Event()

    async def half_closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await settled(lambda: body.taken)
        writer.write_eof()
        await over.wait()

    body = Counted("application/json", large(160).segments, base64=True)
    async with listening(half_closing) as url, api(url) as given:
        with pytest.raises(UpstreamFailed, match="closed the connection before it answered"):
            await post(given, body)
        over.set()


async def test_an_upstream_that_does_not_read_holds_the_body_back() -> None:
    begun, read_on, length = asyncio.Event(), asyncio.Event(), 160 * 256 * 1024

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await read_on.wait()
        await reader.readexactly(length)
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n{}")
        await writer.drain()

    async with listening(slow) as url, api(url) as given:
        body = Counted("application/json", large(160).segments, base64=True)
        asking = asyncio.create_task(post(given, body))
        await begun.wait()
        assert await settled(lambda: body.taken) < 110
        read_on.set()
        with await asking as answer:
            assert await answer.read() == b"{}"
        assert body.taken == 160


async def test_an_answer_that_is_not_taken_holds_the_upstream_back() -> None:
    async with remote(flood) as far, api(far.url) as given:
        with await post(given) as answer:
            async with aclosing(answer.pieces()) as pieces:
                taken = [await anext(pieces)]
                assert await settled(lambda: len(far.seen[0].body)) < 320
                taken += [piece async for piece in pieces]
    assert b"".join(taken) == FLOOD
    assert max(map(len, taken)) <= 2 * 64 * 1024


async def test_an_answer_that_grows_too_long_is_given_up_on_the_way() -> None:
    async with remote(flood) as far, api(far.url, answer_bytes_max=1_000_000) as given:
        with await post(given) as answer, pytest.raises(UpstreamFailed, match="longer than answer"):
            await answer.read()
        await until(lambda: far.open_connections == 0)
        assert len(far.seen[0].body) < 400


async def test_a_relay_that_is_paused_holds_the_upstream_back() -> None:
    taken: list[bytes] = []
    async with remote(flood) as far, api(far.url) as given:
        with await post(given) as answer:

            def feed(data: bytes) -> None:
                taken.append(data)
                if len(taken) == 3:
                    answer.pause()
                    answer.pause()

            relaying = asyncio.create_task(answer.relay(feed))
            assert await settled(lambda: len(far.seen[0].body) if far.seen else -1) < 320
            await until(lambda: len(taken) == 3)
            answer.resume()
            await relaying
    assert b"".join(taken) == FLOOD


async def test_a_relay_that_was_finished_while_it_was_paused_stays_so() -> None:
    taken: list[bytes] = []
    async with remote(flood) as far, api(far.url) as given:
        with await post(given) as answer:

            def feed(data: bytes) -> None:
                taken.append(data)
                answer.pause()
                answer.finish()

            await answer.relay(feed)
            relaying = asyncio.create_task(answer.relay(taken.append))
            assert await settled(lambda: len(far.seen[0].body)) < 320
            assert len(taken) <= 2, "what was there already"
            answer.resume()
            await relaying
    assert b"".join(taken) == FLOOD


async def test_a_compressed_relay_can_be_paused_and_ended_as_any_other() -> None:
    taken: list[bytes] = []
    text = bytes(2_000_000)
    script = answering(gzip.compress(text), headers=("Content-Encoding: gzip",))
    async with remote(script) as far, api(far.url) as given:
        with await post(given) as answer:

            def feed(data: bytes) -> None:
                taken.append(data)
                if len(taken) == 3:
                    answer.pause()

            relaying = asyncio.create_task(answer.relay(feed))
            await until(lambda: len(taken) == 3)
            assert await settled(lambda: len(taken)) == 3
            answer.resume()
            await relaying
        assert b"".join(taken) == text
        with await post(given) as answer:
            await answer.relay(lambda data: answer.finish())
        with await post(given) as answer, pytest.raises(ZeroDivisionError):
            await answer.relay(lambda data: print(1 / 0))


async def test_each_read_is_handed_on_once_from_within_it() -> None:
    fed: list[bytes] = []
    go_on = asyncio.Event()

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.send(b"1\r\na\r\n1\r\nb\r\n")
        await go_on.wait()
        await peer.send(b"1\r\nc\r\n1\r\nd\r\n0\r\n\r\n")

    def feed(data: bytes) -> None:
        fed.append(data)
        go_on.set()

    async with remote(script) as far, api(far.url) as given:
        with await post(given) as answer:
            await answer.relay(feed)
        assert fed == [b"ab", b"cd"]
        assert far.open_connections == 1


async def test_what_feed_raises_closes_the_connection_and_is_raised() -> None:
    def feed(data: bytes) -> None:
        raise KeyError(data)

    async with remote(stream) as far, api(far.url) as given:
        with await post(given) as answer, pytest.raises(KeyError, match="a"):
            await answer.relay(feed)
        await until(lambda: far.open_connections == 0)


async def test_a_relay_that_was_finished_leaves_the_rest_to_be_read() -> None:
    go_on = asyncio.Event()

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(b"a")
        await go_on.wait()
        await peer.chunk(b"b")
        await peer.end()

    async with remote(script) as far, api(far.url) as given:
        with await post(given) as answer:
            await answer.relay(lambda data: answer.finish())
            go_on.set()
            assert await in_pieces(answer) == b"b"
        assert far.open_connections == 1


async def test_closing_an_answer_that_is_not_complete_tells_the_upstream() -> None:
    async with remote(stream) as far, api(far.url) as given:
        answer = await post(given)
        answer.close()
        answer.close()
        await until(lambda: far.open_connections == 0)
        with pytest.raises(UpstreamFailed, match="broke off"):
            await answer.read()
        with await post(given) as answer:
            relaying = asyncio.create_task(answer.relay(lambda data: answer.close()))
            await relaying
        await until(lambda: far.open_connections == 0)


async def test_closing_the_client_ends_what_still_runs() -> None:
    async with remote(stream) as far, api(far.url) as given:
        answer = await post(given)
        reading = asyncio.create_task(answer.read())
        await asyncio.sleep(0)
        await given.close()
        with pytest.raises(UpstreamFailed, match="broke off"):
            await reading
        await until(lambda: far.open_connections == 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("body", [SMALL, large(8)], ids=["small", "large"])
async def test_wherever_a_call_is_cancelled_its_connection_is_closed(body: Body, way: Way) -> None:
    answered = 0

    async def script(seen: Seen, peer: Peer) -> None:
        nonlocal answered
        await peer.open_stream()
        await peer.chunk(b"a")
        await asyncio.sleep(0)
        await peer.chunk(b"b")
        answered += 1
        await seen.gone.wait()

    async with remote(script) as far, api(far.url) as given:
        turns = 0
        while answered < 5:  # each time one turn of the loop later
            calling = asyncio.create_task(ask(given, way, body))
            for _ in range(turns):
                await asyncio.sleep(0)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            await until(lambda: far.open_connections == 0)
            turns += 1
        assert turns > 5
