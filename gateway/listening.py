"""The connections of a gateway: how they come in, and how they end.

Owns: the HTTP server with its options, on an address of its own or on sockets that it shares, with
TLS or without it.
Does not know: what a request is answered, or when the process ends.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.accepting import BACKLOG, Acceptor, Shares, cannot_listen
from gateway.metrics import Metrics
from gateway.protocol import Handler, HttpServer
from gateway.sections import ServerConfig
from gateway.tls import Encrypted, Failure

#: How long an idle client connection is kept, and how long an unread body is drained, seconds.
KEEPALIVE_S: Final = 75.0
LINGER_S: Final = 5.0
#: What aiohttp may wait for a connection's handler once no request runs any more; it may take this
#: twice.
_LINGERING_HANDLER_S: Final = 0.2


class _Server(HttpServer):
    """The server, which tells of each connection's end.

    ``tls`` gives what a new connection is encrypted with; ``None``: it is not."""

    acceptor: Acceptor | None = None
    tls: Callable[[], ssl.SSLContext | None] = staticmethod(lambda: None)
    metrics: Metrics

    def __init__(self, handler: Handler, *, header_timeout_s: Callable[[], float]) -> None:
        super().__init__(
            handler,
            header_timeout_s=header_timeout_s,
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
        )
        #: Those on which TLS is still to be agreed on.
        self.agreeing: set[Encrypted] = set()

    def __call__(self) -> RequestHandler:
        """The protocol of one new connection."""
        connection, context = super().__call__(), self.tls()
        if context is None:
            return connection
        encrypted = Encrypted(
            connection,
            context,
            limit_s=self.header_timeout_s(),
            failed=self._failed,
            settled=self._settled,
        )
        self.agreeing.add(encrypted)
        return cast("RequestHandler", encrypted)

    def _failed(self, why: Failure) -> None:
        self.metrics.tls_failed.labels(why).inc()

    def _settled(self, encrypted: Encrypted, agreed: bool) -> None:
        self.agreeing.discard(encrypted)
        if not agreed and self.acceptor is not None:
            self.acceptor.closed()

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """See aiohttp."""
        super().connection_lost(handler, exc)
        if self.acceptor is not None:
            self.acceptor.closed()


class Listener:
    """What a gateway listens on, and the connections that came through it.

    Args:
        handler: answers each request.
        server: gives the section as it is configured now.
    """

    def __init__(self, handler: Handler, server: Callable[[], ServerConfig]) -> None:
        self._server = _Server(handler, header_timeout_s=lambda: server().header_timeout_s)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=_LINGERING_HANDLER_S)

    def encrypt(self, tls: Callable[[], ssl.SSLContext | None], metrics: Metrics) -> None:
        """From now on each new connection is encrypted with what ``tls`` gives, if it does; what
        fails of that is counted in ``metrics``."""
        self._server.tls, self._server.metrics = tls, metrics
        if tls() is not None:  # of what begins with its first failure, no rate would see that
            for why in Failure:
                metrics.tls_failed.labels(why)

    async def open(self, host: str, port: int, key: str = "") -> tuple[str, int]:
        """Listen; the address that this came to. ``key``: where it is configured.

        Raises ConfigError."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=BACKLOG)
        try:
            await site.start()
        except OSError as error:
            raise cannot_listen(host, port, error, key) from error
        host, port = self._runner.addresses[0][:2]
        return host, port

    async def share(self, sockets: Sequence[socket.socket]) -> None:
        """Accept what comes on ``sockets``, which others share, as long as there is any of them."""
        await self._runner.setup()
        for each in sockets:
            await web.SockSite(self._runner, each, backlog=BACKLOG).start()

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
        for encrypted in tuple(self._server.agreeing):
            encrypted.abort()
        self._server.pre_shutdown()

    async def close(self) -> None:
        """Close every connection."""
        await self._runner.cleanup()
