"""The way of one answer to its client, who may be slow to take it or take nothing at all.

Answers are written straight to the connection: their heads are few and known, and making one of
aiohttp's responses for each costs more than all else that is done for a small call.

Owns: the answer's head and its framing, waiting until a client has taken what was written, and
dropping one that takes nothing.
Does not know: what is written, nor why.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from time import time
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11

from gateway.protocol import Connection, Incoming

#: How often a client that is waited for is looked at, as a share of the time that it has.
_LOOKS: Final = 4
_RESET: Final = struct.pack("ii", 1, 0)
#: Heads and bodies up to this size are joined: one copy costs less than a second write.
_JOINED_BYTES: Final = 64 * 1024
#: The first line of each status that there is, for clients of HTTP/1.1 and for those of 1.0.
_LINES, _LINES_1_0 = [
    {status.value: f"HTTP/{version} {status.value} {status.phrase}\r\n" for status in HTTPStatus}
    for version in ("1.1", "1.0")
]


class Written:
    """What aiohttp is told of an answer that is on its way already: nothing is left to write."""

    __slots__ = ("keep_alive",)

    status = 200
    body_length = 0

    def __init__(self, *, keep_alive: bool) -> None:
        self.keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """See aiohttp."""

    async def write_eof(self) -> None:
        """See aiohttp."""


_KEPT: Final = Written(keep_alive=True)
#: The answer's end is its connection's.
CLOSED: Final = Written(keep_alive=False)


class _Date:
    """The time in the words of HTTP, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self) -> str:
        second = int(time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True)
        return self._text


_date = _Date()


class Outlet:
    """One answer's way out.

    Args:
        timeout_s: how long the client may take nothing while it is waited for, seconds.
    """

    __slots__ = (
        "_chunked",
        "_freed",
        "_left",
        "_protocol",
        "_request",
        "_since",
        "_timeout_s",
        "_timer",
        "closing",
        "dropped",
    )

    def __init__(self, request: Incoming, timeout_s: float) -> None:
        self._request = request
        self._protocol = request.protocol
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._freed: Callable[[], None] | None = None
        self._left: int  # these two are set while the client is waited for
        self._since: float
        self._chunked = False
        #: Whether the answer's end is its connection's.
        self.closing = not request.keep_alive
        #: Why the client was given up, where it was.
        self.dropped: str | None = None

    @property
    def open(self) -> bool:
        """Whether anything can be written at all."""
        transport = self._protocol.transport
        return transport is not None and not transport.is_closing()

    @property
    def client(self) -> Connection:
        """The connection that it goes out on."""
        return self._protocol

    @property
    def blocked(self) -> bool:
        """Whether the client has so much yet to take that nothing more should be written."""
        return self._protocol.blocked

    @property
    def unsent(self) -> int:
        """Bytes that were written and that not even the system has taken."""
        transport = self._protocol.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    @property
    def unflushed(self) -> bool:
        """Whether there is something that ``flushed`` would wait for. Mostly not: the system takes
        a small answer at once."""
        transport = self._protocol.transport
        return transport is not None and transport.get_write_buffer_size() > 0

    @property
    def written(self) -> Written:
        """What to tell aiohttp once the answer is written."""
        return CLOSED if self.closing else _KEPT

    def answer(self, status: int, fields: str, body: bytes | None) -> None:
        """Write a whole answer. ``fields``: the head's own lines, each with its line end;
        ``body``: ``None`` where nothing is to be said of one, as with 204."""
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = self._head(status, fields + length)
        if body is None or self._request.method == "HEAD":
            body = b""
        if len(body) <= _JOINED_BYTES:
            self._write(head + body)
        else:
            self._write(head)
            self._write(body)

    def begin(self, status: int, fields: str) -> None:
        """Write the head of an answer whose length is not known."""
        self._chunked = self._request.version >= HttpVersion11
        if self._chunked:
            fields += "Transfer-Encoding: chunked\r\n"
        else:
            self.closing = True  # nothing else says where it ends
        self._write(self._head(status, fields))
        self._protocol.rest()

    def piece(self, data: bytes) -> None:
        """Write a piece of it."""
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        """Write its end."""
        if self._chunked:
            self._write(b"0\r\n\r\n")

    def _head(self, status: int, fields: str) -> bytes:
        lines, connection = _LINES, ""
        if self._request.version < HttpVersion11:
            lines, connection = _LINES_1_0, "Connection: keep-alive\r\n"
        if self.closing:
            connection = "Connection: close\r\n"
        return f"{lines[status]}{fields}{connection}Date: {_date()}\r\n\r\n".encode()

    def _write(self, data: bytes) -> None:
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(data)

    def _untaken(self) -> int:
        """Bytes that were written and that the client's side has not confirmed: what the system
        holds shrinks long before it takes anything more."""
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            return 0
        number = transport.get_extra_info("socket").fileno()
        held = struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, b"\0" * 4))[0]
        return transport.get_write_buffer_size() + int(held)

    async def room(self) -> None:
        """Return once the client has taken so much that more may be written."""
        self._watch()
        try:
            await self._protocol.drained()
        finally:
            self._unwatch()

    def when_free(self, go_on: Callable[[], None]) -> None:
        """Call ``go_on`` once the client has taken so much that more may be written."""
        self._watch()
        self._freed = go_on
        self._protocol.when_free = self._go_on

    def _go_on(self) -> None:
        freed = self._freed
        self.release()
        if freed is not None:
            freed()

    def release(self) -> None:
        """Wait for the client no more."""
        self._unwatch()
        self._freed = None
        self._protocol.when_free = None

    async def flushed(self) -> None:
        """Return once all of the answer is out of the gateway's hands: a client that reads no more
        could otherwise keep the connection, and what is held for it, for ever."""
        transport = self._protocol.transport
        if transport is None or not self.unflushed:
            return
        self._watch()
        try:
            transport.set_write_buffer_limits(0)
            await self._protocol.drained()
            transport.set_write_buffer_limits()
        finally:
            self._unwatch()

    def drop(self) -> None:
        """End the connection at once, whatever is still unsent. The request's task is cancelled."""
        transport = self._protocol.transport
        if transport is not None:
            connection = transport.get_extra_info("socket")
            if connection is not None and not transport.is_closing():
                # Or the system would go on trying to send what it holds.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        self._left, self._since = -1, loop.time()
        self._timer = loop.call_later(self._timeout_s / _LOOKS, self._look)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now, left = loop.time(), self._untaken()
        # Nothing is written meanwhile, so what has changed was taken: however slow, it is alive.
        if left != self._left:
            self._left, self._since = left, now
        elif now - self._since >= self._timeout_s:
            self.dropped = f"the client read nothing for {self._timeout_s:g} s"
            self.drop()
            return
        self._timer = loop.call_later(self._timeout_s / _LOOKS, self._look)
