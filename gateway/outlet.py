"""The way of one answer to its client, who may be slow to take it or take nothing at all.

Owns: waiting until a client has taken what was written, and dropping one that takes nothing.
Does not know: what is written, nor why.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from typing import Final

from aiohttp import web

#: How often a client that is waited for is looked at, as a share of the time that it has.
_LOOKS: Final = 4
_RESET: Final = struct.pack("ii", 1, 0)


class Outlet:
    """One answer's way out.

    Args:
        timeout_s: how long the client may take nothing while it is waited for, seconds.
    """

    __slots__ = ("_left", "_loop", "_protocol", "_since", "_timeout_s", "_timer", "dropped")

    def __init__(self, request: web.BaseRequest, timeout_s: float) -> None:
        self._protocol = request.protocol
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0
        self._since = 0.0
        #: Why the client was given up, where it was.
        self.dropped: str | None = None

    @property
    def open(self) -> bool:
        """Whether anything can be written at all."""
        transport = self._protocol.transport
        return transport is not None and not transport.is_closing()

    @property
    def blocked(self) -> bool:
        """Whether the client has so much yet to take that nothing more should be written."""
        return self._protocol.writing_paused

    @property
    def unsent(self) -> int:
        """Bytes that were written and that not even the system has taken."""
        transport = self._protocol.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def _untaken(self) -> int:
        """Bytes that were written and that the client's side has not confirmed: what the system
        holds shrinks long before it takes anything more."""
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            return 0
        number = transport.get_extra_info("socket").fileno()
        held = struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, b"\0" * 4))[0]
        return transport.get_write_buffer_size() + int(held)

    async def room(self, request: web.BaseRequest) -> None:
        """Return once the client has taken so much that more may be written."""
        self._watch()
        try:
            await request.writer.drain()
        finally:
            self._unwatch()

    async def finish(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Write the answer's end. Returns once all of it is out of the gateway's hands: a client
        that reads no more could otherwise keep the connection, and what is held for it, for ever.
        """
        self._watch()
        try:
            await response.write_eof()
            transport = self._protocol.transport
            if transport is not None and transport.get_write_buffer_size():
                transport.set_write_buffer_limits(0)
                await request.writer.drain()
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
        self._left = -1
        self._since = self._loop.time()
        self._timer = self._loop.call_later(self._timeout_s / _LOOKS, self._look)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now, left = self._loop.time(), self._untaken()
        # Nothing is written meanwhile, so what has changed was taken: however slow, it is alive.
        if left != self._left:
            self._left, self._since = left, now
        elif now - self._since >= self._timeout_s:
            self.dropped = f"the client read nothing for {self._timeout_s:g} s"
            self.drop()
            return
        self._timer = self._loop.call_later(self._timeout_s / _LOOKS, self._look)
