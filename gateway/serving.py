"""One process that serves: everything is opened here, wired together, and closed again.

Owns: the order of opening and closing, the way from being told to stop to the process's end.
Does not know: what is made of a configuration (``assembly``), who tells it to stop, what it listens
on, or whether there are others like it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final, TypeAlias

import aiohttp
from prometheus_client import CollectorRegistry

from gateway import logs, loops
from gateway.admin import Admin
from gateway.assembly import Assembly
from gateway.config import Config
from gateway.executions.opening import keeping
from gateway.executions.service import Executions
from gateway.exposition import Exposition
from gateway.listening import Listener
from gateway.live import Live
from gateway.loaded import Loaded
from gateway.metrics import Metrics, Process
from gateway.server import Gateway
from gateway.site import Site
from gateway.told import Told, end_within
from gateway.vitals import watched

#: How long the process may take to end once all is closed, or once it was told a second time.
_END_S: Final = 2.0
_CUT_S: Final = 0.7


@dataclass(frozen=True, slots=True)
class Serving:
    """A gateway, and what another configuration of it takes."""

    gateway: Gateway
    listener: Listener
    admin: Listener
    live: Live
    assemble: Callable[[Config], Awaitable[Site]]
    executions: Executions | None

    async def apply(self, loaded: Loaded) -> None:
        """Make ``loaded`` the live configuration. Raises as ``Assembly.assemble`` does."""
        self.live.take(await self.assemble(loaded.config), loaded.hash, loaded.paths)

    async def finish(self, *, pre_stop: bool) -> None:
        """Let requests come to their end in the time that the live configuration gives them.

        ``pre_stop``: whoever sends requests is still to learn that the gateway stops."""
        gateway, server = self.gateway, self.gateway.site.server
        gateway.stop()
        pre_stop_s = server.pre_stop_s if pre_stop else 0.0
        fields = {"pre_stop_s": pre_stop_s, "drain_s": server.drain_s, "requests": gateway.running}
        logs.events.info("stopping", extra={"fields": fields})
        await asyncio.sleep(pre_stop_s)
        await self.listener.shut()
        logs.events.info("draining", extra={"fields": {"requests": gateway.running}})
        if self.executions is None:
            await gateway.drain(server.drain_s)
        else:
            await self.executions.stop()
            await asyncio.gather(
                gateway.drain(server.drain_s), self.executions.drain(server.drain_s)
            )


@asynccontextmanager
async def opened(
    config: Config,
    its_hash: str,
    metrics: Metrics,
    exposition: Exposition | None = None,
    *,
    files: tuple[str, ...] = (),
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Serving]:
    """A gateway that does not listen yet. What still runs when the context is left is ended at
    once.

    ``exposition`` is what /metrics answers; left out, what ``metrics`` holds. ``files``: the paths
    of those that ``config`` came from. ``wall``: Unix seconds, of a clock that may jump.

    Raises:
        ConfigError: an expression that does not compile, or an extra that is not installed.
        GatewayError: a child process for expressions does not start, or the store of executions
            does not open.
    """
    # The loop's own time, but finer: uvloop tells whole milliseconds only.
    clock = monotonic
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(_session())
        await stack.enter_async_context(watched(metrics, Process.WORKER))
        assembly = Assembly(session=session, metrics=metrics, clock=clock)
        site = await assembly.assemble(config)
        gateway = Gateway(site, metrics=metrics, clock=clock, exposition=exposition)
        live = Live(site, its_hash, files, swap=gateway.swap, clock=clock)
        stack.push_async_callback(live.close)
        executions = None
        if config.executions is not None:
            kept = keeping(
                config.executions,
                site=lambda: live.site,
                metrics=metrics,
                clock=clock,
                wall=wall,
            )
            executions = await stack.enter_async_context(kept)
            gateway.keep(executions, wall=wall)
        # It is there until nothing else is: a gateway that ends is watched, too.
        watched_by = Admin(
            gateway, gateway.own.watching, site=lambda: gateway.site, metrics=metrics, clock=clock
        )
        admin = Listener(watched_by.handle, lambda: gateway.site.server)
        stack.push_async_callback(admin.close)
        if config.server.admin is not None:
            gateway.watch_elsewhere()
        listener = Listener(gateway.handle, lambda: gateway.site.server)
        listener.encrypt(lambda: gateway.site.tls, metrics)
        stack.push_async_callback(listener.close)
        stack.push_async_callback(gateway.drain, 0.0)
        stack.push_async_callback(listener.shut)
        stack.callback(gateway.stop)
        yield Serving(gateway, listener, admin, live, assembly.assemble, executions)


def _session() -> aiohttp.ClientSession:
    """The HTTP client for Triton: no cookies, no proxies from the environment, no inflating."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=64 * 1024,
    )


def new_metrics() -> Metrics:
    """The families, on a registry of this process's own."""
    return Metrics(CollectorRegistry())


Open: TypeAlias = Callable[[], AbstractAsyncContextManager[Serving]]


class Life:
    """A process that serves from when ``open`` is entered until it is ``told`` to stop."""

    def __init__(self, open: Open, told: Told) -> None:
        self._open = open
        self._told = told
        self._serving: Serving | None = None

    async def run(self) -> int:
        """Serve until told to stop. Returns the exit code: 0, or 128 and the signal's number where
        it was told to stop at once. Raises what ``open`` does."""
        work = asyncio.create_task(self._serve())
        at_once = asyncio.create_task(self._told.at_once.wait())
        await asyncio.wait((work, at_once), return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
        if work.done():
            work.result()
            end_within(_END_S, 0)
            return 0
        code = 128 + self._told.number
        end_within(_CUT_S, code)
        logs.events.warning("stopping at once", extra={"fields": {"signal": self._told.number}})
        if self._serving is not None:
            await self._serving.gateway.cut()
        work.cancel()
        await asyncio.wait((work,))
        return code

    async def _serve(self) -> None:
        async with self._open() as self._serving:
            loops.settle()
            await self._told.stop.wait()
            await self._serving.finish(pre_stop=self._told.pre_stop)
        logs.events.info("stopped")
