"""The connections to one origin: those that are kept open between exchanges, and new ones.

Owns: names, TCP and TLS on the way to a connection, and how long an unused one is kept.
Does not know: HTTP, what the connections are used for, how long any of it may take.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from functools import cache
from ipaddress import ip_address
from typing import Final

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType

from gateway.upstreams.connection import READ_BYTES, Connection
from gateway.upstreams.outgoing import Origin

#: How long a connection is kept that nobody uses, seconds.
KEPT_S: Final = 15.0
#: When the next of several addresses is tried beside one that does not answer (RFC 8305), seconds.
_NEXT_ADDRESS_S: Final = 0.25


@cache
def _usual_tls() -> ssl.SSLContext:
    """Certificates are checked against the system's; made once, for that reads hundreds."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Pool:
    """Connections to ``origin``.

    Args:
        tls: whom to trust, other than the system's authorities.
        kept_s: how long a connection is kept that nobody uses, seconds.
    """

    def __init__(
        self, origin: Origin, tls: ssl.SSLContext | None = None, *, kept_s: float = KEPT_S
    ) -> None:
        self._origin = origin
        self._tls = tls
        self._kept_s = kept_s
        self.buffer = memoryview(bytearray(READ_BYTES))
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
        loop, origin = asyncio.get_running_loop(), self._origin
        addresses = await self._addresses(loop)
        try:
            connected = await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S, loop=loop
            )
        except RuntimeError as error:  # uvloop, where the socket was closed under it
            raise OSError(str(error)) from error
        _, connection = await loop.create_connection(
            lambda: Connection(self),
            sock=connected,
            ssl=(self._tls or _usual_tls()) if origin.https else None,
            server_hostname=origin.host.rstrip(".") if origin.https else None,
        )
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

    async def _addresses(self, loop: asyncio.AbstractEventLoop) -> Sequence[AddrInfoType]:
        host, port = self._origin.host, self._origin.port
        try:
            address = None if "%" in host else ip_address(host)
        except ValueError:
            address = None
        if address is None:
            return await loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
        # Nothing to look up, so no thread is asked.
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
