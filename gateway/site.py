"""Everything that was made of one configuration, for as long as requests use it.

Owns: what belongs together, so that a request sees one configuration from its head to its end; the
count of the requests that do, and the closing of what the last of them has left.
Does not know: how any of it is made, or when another takes its place.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.config import Config
from gateway.health import Readiness
from gateway.keys import Keyring
from gateway.quotas import Counting
from gateway.route import Route
from gateway.sections import BoundsConfig, ServerConfig
from gateway.services import Services
from gateway.tracing import Tracing


@dataclass(slots=True, eq=False)
class Site:
    """One configuration, ready to serve. ``close`` lets go of what only this one holds."""

    server: ServerConfig
    bounds: BoundsConfig
    keyring: Keyring
    routes: dict[str, Route]
    health: Readiness
    services: Services
    close: Callable[[], Awaitable[None]]
    #: What it was made of, and TLS towards clients; ``None``: none.
    config: Config
    tls: ssl.SSLContext | None = None
    #: What is traced; ``None``: nothing is.
    tracing: Tracing | None = None
    #: The hash of the files that it came from, their paths, and since when it is live: Unix
    #: seconds. Set when it goes live.
    hash: str = ""
    files: tuple[str, ...] = ()
    since: float = 0.0
    #: Where it is counted what keys ask for; ``None``: no key has a limit.
    limiting: Counting | None = None
    #: How many requests use it: each counts itself in when it begins, and calls ``leave``.
    users: int = 0
    _unused: asyncio.Event | None = None

    def leave(self) -> None:
        """A request that used it is done."""
        self.users -= 1
        if self._unused is not None and not self.users:
            self._unused.set()

    async def retire(self) -> None:
        """Close it once no request uses it. None may begin any more."""
        if self.users:
            self._unused = asyncio.Event()
            await self._unused.wait()
        await self.shut()

    async def shut(self) -> None:
        """Close it whoever uses it."""
        self.routes.clear()
        await self.close()
