"""Answers byte for byte, and what two HTTP clients make of them: the gateway's own and aiohttp's.

Owns: the server that writes the bytes, and each client's outcome in the same words.
Does not know: which answers there are, and which outcome is right.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from gateway.errors import UpstreamFailed, UpstreamTimeout
from gateway.upstreams.answer import Answer
from gateway.upstreams.http import HttpApi
from gateway.upstreams.outgoing import Body
from tests.support.timing import patience

_QUESTION = b'{"text":"x"}'
#: How long an answer may be, bytes: more than any here.
_ANSWER_BYTES_MAX = 1 << 24
#: Where an error says with which status it was answered.
_STATUS = re.compile(r"(?:answered |key \(|pipeline \()(\d{3})\b")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client makes of an answer; ``failed`` where it gives none, and nothing else then.

    Of an answer other than 200 the gateway's client tells the status alone.
    """

    failed: bool = False
    status: int = 0
    body: bytes = b""
    fields: Mapping[str, str] = field(default_factory=dict)


FAILED = Outcome(failed=True)


class Writer:
    """A server that writes the bytes of ``answers`` as they are, by the path they are asked for at,
    one read's worth after the other, and closes its side."""

    def __init__(self) -> None:
        self.answers: dict[str, Sequence[bytes]] = {}
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(_QUESTION))
            for piece in self.answers[head.split(b" ", 2)[1].decode()]:
                writer.write(piece)
                await writer.drain()
                for _ in range(3):  # the reader's turn, which is in the same loop
                    await asyncio.sleep(0)
            writer.write_eof()
            await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # a client that has seen enough
        finally:
            self._tasks.discard(task)
            writer.close()

    async def ended(self) -> None:
        """Return once every client has gone."""
        while self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def writing() -> AsyncIterator[Writer]:
    """Run the server on a free port of the loopback."""
    made = Writer()
    server = await asyncio.start_server(made._serve, "127.0.0.1", 0, backlog=512)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.ended()


async def _whole(answer: Answer) -> bytes:
    return await answer.read()


async def _in_pieces(answer: Answer) -> bytes:
    async with aclosing(answer.pieces()) as pieces:
        return b"".join([piece async for piece in pieces])


async def _relayed(answer: Answer) -> bytes:
    taken: list[bytes] = []
    await answer.relay(taken.append)
    return b"".join(taken)


#: The ways to read an answer, which are all to come to the same.
WAYS = {"read": _whole, "pieces": _in_pieces, "relay": _relayed}


async def own_outcome(url: str, path: str, way: str, names: Sequence[str]) -> Outcome:
    """What the gateway's client makes of the answer at ``path``; of its fields, ``names``."""
    api = HttpApi(
        name="far", url=url, key_header="Key", key=None, answer_bytes_max=_ANSWER_BYTES_MAX
    )
    body = Body("application/json", [_QUESTION])
    try:
        async with patience():
            with await api.post(path, body, request_id="r", connect_s=60) as answer:
                data = await WAYS[way](answer)
                fields = {name: _text(answer.headers.get(name)) for name in names}
                return Outcome(status=answer.status, body=data, fields=fields)
    except (UpstreamFailed, UpstreamTimeout) as error:
        status = _STATUS.search(error.message)
        return Outcome(status=int(status[1])) if status else FAILED
    finally:
        await api.close()


async def aiohttp_outcome(session: aiohttp.ClientSession, url: str, path: str) -> Outcome:
    """What aiohttp makes of it."""
    try:
        async with (
            patience(),
            session.post(url + path, data=_QUESTION, allow_redirects=False) as response,
        ):
            body = await response.read()
    except (aiohttp.ClientError, ValueError):
        return FAILED
    if response.status != 200:
        return Outcome(status=response.status)
    fields = {
        name.lower(): _text(", ".join(response.headers.getall(name))) for name in response.headers
    }
    return Outcome(status=200, body=body, fields=fields)


def _text(value: str) -> str:
    """A field's value with what is not UTF-8 replaced, which aiohttp carries along, and without the
    blanks that mean nothing."""
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return re.sub(r"[ \t]*,[ \t]*", ",", text).strip(" \t")
