"""A scripted HTTP upstream on a real socket: it does what the test says, byte for byte.

It knows just enough HTTP to read a request; what it answers is written by the script itself, so
that it can break every rule.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Seen:
    """One request as it arrived. ``gone`` is set once the peer has closed its connection."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    gone: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Peer:
    """The connection that a script answers on."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(
        self,
        body: bytes,
        status: str = "200 OK",
        content_type: str = "application/json",
        headers: tuple[str, ...] = (),
    ) -> None:
        """Write a whole, well-formed answer."""
        head = [
            f"HTTP/1.1 {status}",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
            *headers,
        ]
        await self.send("\r\n".join(head).encode() + b"\r\n\r\n" + body)

    async def open_stream(self, content_type: str = "text/event-stream") -> None:
        """Write the head of a chunked answer."""
        await self.send(
            f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )

    async def chunk(self, data: bytes) -> None:
        """Write one chunk."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """Write the chunk that ends the answer."""
        await self.send(b"0\r\n\r\n")

    def cut(self) -> None:
        """Reset the connection, as a crashed process would."""
        self.writer.transport.abort()


Script = Callable[[Seen, Peer], Awaitable[None]]


class Remote:
    """An upstream that answers by ``script``; ``seen`` lists what it was asked."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.tls = tls
        self.seen: list[Seen] = []
        self.open_connections = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open_connections += 1
        try:
            while (seen := await _read_request(reader)) is not None:
                self.seen.append(seen)
                watcher = asyncio.create_task(_watch(reader, seen))
                try:
                    await self.script(seen, Peer(reader, writer))
                except ConnectionError:
                    seen.gone.set()  # a write may learn of it before the watcher looks
                    raise
                finally:
                    watcher.cancel()
                    await asyncio.gather(watcher, return_exceptions=True)
                if writer.transport.is_closing() or seen.gone.is_set():
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the gateway hung up, which is what some tests are about
        finally:
            self.open_connections -= 1
            self._tasks.discard(task)
            writer.close()


async def _watch(reader: asyncio.StreamReader, seen: Seen) -> None:
    """Notice the peer's leaving while a script is busy. No client here sends ahead."""
    while not reader.at_eof() and reader.exception() is None:
        await asyncio.sleep(0.005)
    seen.gone.set()


async def _read_request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:] if line)
    }
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, path, headers, body)


@asynccontextmanager
async def remote(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Remote]:
    """Run a scripted upstream on a free port of the loopback, over TLS where it is given."""
    upstream = Remote(script, tls)
    server = await asyncio.start_server(
        upstream._serve, "127.0.0.1", 0, limit=1 << 27, backlog=512, ssl=tls
    )
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in list(upstream._tasks):
            task.cancel()
        await asyncio.gather(*upstream._tasks, return_exceptions=True)
