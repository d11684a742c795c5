"""The client of the two remote APIs in a test's own loop, and servers that it meets there.

Owns: the making and closing of the client, the ways to read an answer, the proof that nothing of a
connection is left, and servers that read no faster than a test lets them.
Does not know: what any test shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from gateway.model import Media
from gateway.upstreams.answer import Answer
from gateway.upstreams.http import HttpApi
from gateway.upstreams.outgoing import Body
from tests.support.leftovers import descriptors
from tests.support.remote import Peer, Script, Seen

#: Longer than anything here takes, and shorter than an idle connection is kept, seconds.
LIMIT_S = 12.0
Way = Callable[[Answer], Awaitable[bytes]]
SMALL = Body("application/json", [b'{"text":"x"}'])
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """No task, no socket, and no error that only the loop has heard of."""
    unheard: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()

    def hear(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A server of asyncio's tells of its handlers that the end of a test cancelled.
        if "StreamReaderProtocol" not in context["message"]:
            unheard.append(context)

    loop.set_exception_handler(hear)
    tasks, files = asyncio.all_tasks(), descriptors()["socket"]
    yield
    async with asyncio.timeout(LIMIT_S):
        own = asyncio.current_task()
        while asyncio.all_tasks() - tasks - {own} or descriptors()["socket"] > files:
            await asyncio.sleep(0.005)
    assert unheard == []


@asynccontextmanager
async def api(url: str, **other: Any) -> AsyncIterator[HttpApi]:
    """A client that is closed at the end, within ``LIMIT_S``; ``other`` goes to ``HttpApi``."""
    arguments: dict[str, Any] = {
        "key_header": "X-API-Key",
        "key": "secret",
        "answer_bytes_max": 200_000_000,
    }
    made = HttpApi(name="far", url=url, **(arguments | other))
    try:
        async with asyncio.timeout(LIMIT_S):
            yield made
    finally:
        await made.close()


async def post(given: HttpApi, body: Body = SMALL, path: str = "/p") -> Answer:
    """Send ``body``; the answer is the caller's to close."""
    return await given.post(path, body, request_id="r-1", connect_s=5.0)


async def whole(answer: Answer) -> bytes:
    """By ``read``."""
    return await answer.read()


async def in_pieces(answer: Answer) -> bytes:
    """By ``pieces``."""
    async with aclosing(answer.pieces()) as pieces:
        return b"".join([piece async for piece in pieces])


async def relayed(answer: Answer) -> bytes:
    """By ``relay``."""
    pieces: list[bytes] = []
    await answer.relay(pieces.append)
    return b"".join(pieces)


async def ask(given: HttpApi, way: Way, body: Body = SMALL, path: str = "/p") -> bytes:
    """Send ``body`` and read the answer in one of the ways."""
    with await post(given, body, path) as answer:
        return await way(answer)


#: The ways to read an answer.
WAYS = [whole, in_pieces, relayed]


def sending(data: bytes, *, close: bool = False) -> Script:
    """A remote that sends ``data`` to whoever asks, and closes then if it is to."""

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.send(data)
        if close:
            peer.writer.close()

    return script


async def until(condition: Callable[[], bool]) -> None:
    """Wait, at most ``LIMIT_S``."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.005)


def large(pieces: int) -> Body:
    """A body of so many pieces of 256 KiB."""
    return Body("application/json", [Media("m", bytes(192 * 1024) * pieces, "x/y")], base64=True)


@asynccontextmanager
async def listening(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server that reads as little as its handler does; yields its URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except ConnectionError:
            pass  # the client hung up
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def settled(number: Callable[[], int]) -> int:
    """``number`` once it has stopped growing."""
    while True:
        before = number()
        await asyncio.sleep(0.1)
        if number() == before:
            return before


async def flood(seen: Seen, peer: Peer) -> None:
    """30 MB, as fast as they are taken; ``seen.body`` tells how many chunks are out."""
    await peer.open_stream()
    for number in range(480):
        await peer.chunk(b"%04d" % number * 16384)
        seen.body = b"x" * number
    await peer.end()


FLOOD = b"".join(b"%04d" % number * 16384 for number in range(480))


async def stream(seen: Seen, peer: Peer) -> None:
    """A stream that goes on until the client has gone."""
    await peer.open_stream()
    await peer.chunk(b"a")
    await seen.gone.wait()
