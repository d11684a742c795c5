"""The connections to one origin: those that are kept open between exchanges, and new ones.

Owns: TLS, and how long an unused connection is kept.
Does not know: HTTP, what the connections are used for, how long any of it may take.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Final

from gateway.certificates import usual_context
from gateway.upstreams.answer import UNREAD_BYTES_MAX
from gateway.upstreams.connection import READ_BYTES, Connection
from gateway.upstreams.dialing import dial
from gateway.upstreams.outgoing import Origin

#: How long a connection is kept that nobody uses, seconds.
KEPT_S: Final = 15.0


class Pool:
    """Connections to ``origin``.

    Args:
        tls: whom to trust, other than the system's authorities, and what to show.
        server_name: the name that its certificate must have, where that is not its host.
        kept_s: how long a connection is kept that nobody uses, seconds.
    """

    def __init__(
        self,
        origin: Origin,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        *,
        kept_s: float = KEPT_S,
    ) -> None:
        self._origin = origin
        self._tls = tls
        self._server_name = server_name or origin.host.rstrip(".")
        self._kept_s = kept_s
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.small = self.buffer[:UNREAD_BYTES_MAX]
        #: Those kept, the one that was used last at the end.
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closing = False
        self._empty: asyncio.Future[None] | None = None

    def take(self) -> Connection | None:
        """A kept connection, the one that was used last; ``None`` where there is none."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    async def connect(self) -> Connection:
        """A new connection.

        Raises:
            OSError: ``socket.gaierror`` where the name does not resolve, ``ssl.SSLError`` where TLS
                fails, any other where nobody accepts.
            UnicodeError: a name that cannot be one.
        """
        origin = self._origin
        connected = await dial(origin.host, origin.port)
        connection = Connection(self)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                sock=connected,
                ssl=(self._tls or usual_context("http/1.1")) if origin.https else None,
                server_hostname=self._server_name if origin.https else None,
            )
        except BaseException:
            # Where this is cancelled once it is made, uvloop closes it without a word to it.
            if connection in self._open:
                connection.abort()
                self.lost(connection)
            raise
        return connection

    def opened(self, connection: Connection) -> None:
        """See ``Keeper.opened``."""
        self._open.add(connection)
        if self._closing:
            connection.abort()

    def keep(self, connection: Connection) -> None:
        """See ``Keeper.keep``."""
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._kept_s, self._sweep)

    def lost(self, connection: Connection) -> None:
        """See ``Keeper.lost``."""
        self._open.discard(connection)
        if self._empty is not None and not self._open and not self._empty.done():
            self._empty.set_result(None)

    async def close(self) -> None:
        """Close every connection, whatever runs on it."""
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._idle.clear()
        if self._open:
            self._empty = asyncio.get_running_loop().create_future()
            for connection in tuple(self._open):
                connection.break_off()
            await self._empty

    def _sweep(self) -> None:
        """Close those that have not been used for long; the longest unused is the first."""
        loop = asyncio.get_running_loop()
        now, idle = loop.time(), self._idle
        while idle and (idle[0].closed or idle[0].idle_since + self._kept_s <= now):
            connection = idle.popleft()
            if not connection.closed:
                connection.abort()
        self._sweeper = (
            loop.call_at(idle[0].idle_since + self._kept_s, self._sweep) if idle else None
        )
