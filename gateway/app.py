"""The composition root: everything is opened here, wired together, and closed again.

Owns: the order of opening and closing, the listening socket, the process's signals and its exit
code.
Does not know: what is made of a configuration (``assembly``), how it is reloaded (``reloading``).
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from gateway import logs, memory
from gateway.assembly import Assembly
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.metrics import Metrics
from gateway.protocol import HttpServer
from gateway.reloading import Load, Loaded, Reloader
from gateway.server import Gateway

#: How long an idle client connection is kept, and how long an unread body is drained, seconds.
KEEPALIVE_S: Final = 75.0
LINGER_S: Final = 5.0
#: What aiohttp may wait for a connection's handler once no request runs any more; it may take this
#: twice.
_LINGERING_HANDLER_S: Final = 0.2
#: How long the process may take to end once all is closed, or once it was told a second time.
_END_S: Final = 2.0
_CUT_S: Final = 0.7


class _Listener:
    """The listening socket, and the connections that came through it."""

    def __init__(self, gateway: Gateway) -> None:
        self._server = HttpServer(
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
        site = web.TCPSite(self._runner, host, port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            address = f"{host}:{port}"
            raise ConfigError([f"cannot listen on {address}: {error.strerror or error}"]) from error
        host, port = self._runner.addresses[0][:2]
        return host, port

    async def shut(self) -> None:
        """Accept nothing more, and close the connections on which nothing runs."""
        for site in self._runner.sites:
            await site.stop()
        # What was accepted this moment gets to its handler first.
        await asyncio.sleep(0)
        self._server.pre_shutdown()

    async def close(self) -> None:
        """Close every connection."""
        await self._runner.cleanup()


@dataclass(frozen=True, slots=True)
class _Running:
    """A gateway that listens on ``address``."""

    gateway: Gateway
    listener: _Listener
    reloader: Reloader
    address: tuple[str, int]

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
        await gateway.drain(server.drain_s)


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[tuple[str, int]]:
    """A gateway that listens, for as long as the context is entered; yields its host and port.

    What still runs when the context is left is ended at once.

    Raises:
        ConfigError: an expression that does not compile, an extra that is not installed, or an
            address that cannot be listened on.
        GatewayError: a child process for expressions does not start.
    """
    async with _open(Loaded(config), lambda _: config) as opened:
        yield opened.address


@asynccontextmanager
async def _open(loaded: Loaded, load: Load) -> AsyncIterator[_Running]:
    loop = asyncio.get_running_loop()
    config = loaded.config
    async with AsyncExitStack() as stack:
        metrics = Metrics(CollectorRegistry())
        session = await stack.enter_async_context(_session())
        assembly = Assembly(session=session, metrics=metrics, clock=loop.time)
        site = await assembly.assemble(config)
        gateway = Gateway(site, metrics=metrics, clock=loop.time)
        reloader = Reloader(
            site,
            loaded,
            load=load,
            assemble=assembly.assemble,
            swap=gateway.swap,
            metrics=metrics,
            clock=loop.time,
        )
        stack.push_async_callback(reloader.close)
        listener = _Listener(gateway)
        stack.push_async_callback(listener.close)
        address = await listener.open(config.server.host, config.server.port)
        stack.push_async_callback(gateway.drain, 0.0)
        stack.push_async_callback(listener.shut)
        stack.callback(gateway.stop)
        reloader.start()
        _log_start(loaded, address)
        yield _Running(gateway, listener, reloader, address)


def _session() -> aiohttp.ClientSession:
    """The HTTP client for Triton: no cookies, no proxies from the environment, no inflating."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=64 * 1024,
    )


def _log_start(loaded: Loaded, address: tuple[str, int]) -> None:
    config = loaded.config
    fields = {
        "host": address[0],
        "port": address[1],
        "pipelines": len(config.pipelines),
        "upstreams": sorted(config.upstreams),
        "hash": loaded.hash,
    }
    logs.events.info("listening", extra={"fields": fields})
    if config.keys is None:
        logs.events.warning("no keys are configured: every pipeline is open to everyone")


class _Told:
    """What the process was told by signals: to stop, to stop at once, to reload."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.at_once = asyncio.Event()
        self.number = 0
        self._reload: Callable[[], None] | None = None
        self._hung_up = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def on_reload(self, reload: Callable[[], None]) -> None:
        """Call ``reload`` for each SIGHUP from now on, and for one that came before."""
        self._reload = reload
        if self._hung_up:
            reload()

    def _stop(self, number: int) -> None:
        if self.stop.is_set():
            self.at_once.set()
        self.number = number
        self.stop.set()

    def _hang_up(self) -> None:
        self._hung_up = True
        if self._reload is not None:
            self._reload()


class _Serving:
    """The life of the process."""

    def __init__(self, loaded: Loaded, load: Load) -> None:
        self._loaded = loaded
        self._load = load
        self._told = _Told()
        self._running: _Running | None = None

    async def run(self) -> int:
        """Serve until told to stop. Returns the exit code. Raises as ``running`` does."""
        work = asyncio.create_task(self._serve())
        at_once = asyncio.create_task(self._told.at_once.wait())
        await asyncio.wait((work, at_once), return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
        if work.done():
            work.result()
            _end_within(_END_S, 0)
            return 0
        code = 128 + self._told.number
        _end_within(_CUT_S, code)
        logs.events.warning("stopping at once", extra={"fields": {"signal": self._told.number}})
        if self._running is not None:
            await self._running.gateway.cut()
        work.cancel()
        await asyncio.wait((work,))
        return code

    async def _serve(self) -> None:
        async with _open(self._loaded, self._load) as self._running:
            self._told.on_reload(self._running.reloader.ask)
            await self._told.stop.wait()
            # A person at a terminal waits for the end; nobody else is to be told of it.
            await self._running.finish(pre_stop=self._told.number == signal.SIGTERM)
        logs.events.info("stopped")


def _end_within(limit_s: float, code: int) -> None:
    """End the process in ``limit_s`` seconds if it has not ended by itself: a thread may still hang
    in a library (a host name being looked up), and nobody is left who waits for it."""
    timer = threading.Timer(limit_s, os._exit, (code,))
    timer.daemon = True
    timer.start()


async def _serving(loaded: Loaded, load: Load) -> int:
    return await _Serving(loaded, load).run()


def serve(loaded: Loaded, load: Load) -> int:
    """Run the gateway until SIGINT or SIGTERM. Returns the process's exit code: 0, or 128 and the
    signal's number where a second one ended it at once.

    SIGHUP, and a changed file where ``server.watch`` is on, makes it ``load`` anew.

    Raises:
        ConfigError, GatewayError: see ``running``.
    """
    logs.setup()
    memory.give_back()
    return asyncio.run(_serving(loaded, load))
