"""The connections of a gateway: how they come in, and how they end.

Owns: the HTTP server with its options, on an address of its own or on sockets that it shares.
Does not know: what a request is answered, or when the process ends.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.accepting import BACKLOG, Acceptor, Shares
from gateway.errors import ConfigError
from gateway.protocol import HttpServer
from gateway.server import Gateway

#: How long an idle client connection is kept, and how long an unread body is drained, seconds.
KEEPALIVE_S: Final = 75.0
LINGER_S: Final = 5.0
#: What aiohttp may wait for a connection's handler once no request runs any more; it may take this
#: twice.
_LINGERING_HANDLER_S: Final = 0.2


class _Server(HttpServer):
    """The server, which tells of each connection's end."""

    acceptor: Acceptor | None = None

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """See aiohttp."""
        super().connection_lost(handler, exc)
        if self.acceptor is not None:
            self.acceptor.closed()


class Listener:
    """What a gateway listens on, and the connections that came through it."""

    def __init__(self, gateway: Gateway) -> None:
        self._server = _Server(
            gateway.handle,
            header_timeout_s=lambda: gateway.site.server.header_timeout_s,
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=_LINGERING_HANDLER_S)

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen; the address that this came to. Raises ConfigError."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=BACKLOG)
        try:
            await site.start()
        except OSError as error:
            address = f"{host}:{port}"
            raise ConfigError([f"cannot listen on {address}: {error.strerror or error}"]) from error
        host, port = self._runner.addresses[0][:2]
        return host, port

    async def join(self, sockets: Sequence[socket.socket], shares: Shares, place: int) -> None:
        """Accept, as the worker at ``place``, what comes on ``sockets``, which others share."""
        await self._runner.setup()
        self._server.acceptor = Acceptor(sockets, shares, place, self._server)
        self._server.acceptor.start()

    async def shut(self) -> None:
        """Accept nothing more, and close the connections on which nothing runs."""
        for site in self._runner.sites:
            await site.stop()
        if self._server.acceptor is not None:
            await self._server.acceptor.shut()
        # What was accepted this moment gets to its handler first.
        await asyncio.sleep(0)
        self._server.pre_shutdown()

    async def close(self) -> None:
        """Close every connection."""
        await self._runner.cleanup()
