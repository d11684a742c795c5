"""The composition root: everything is opened here, wired together, and closed again.

Owns: which object gets which, the order of opening and closing, the process's signals.
Does not know: what any of them does.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from gateway import logs
from gateway.assembly import assemble
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.metrics import Metrics
from gateway.protocol import HttpServer
from gateway.server import Gateway
from gateway.upstreams.http import tracing

#: How long requests may run on once the process was asked to stop, seconds; aiohttp may take it
#: twice, once before it cancels them and once after.
SHUTDOWN_S: Final = 4.0
#: How long an idle client connection is kept, and how long an unread body is drained, seconds.
KEEPALIVE_S: Final = 75.0
LINGER_S: Final = 5.0


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[tuple[str, int]]:
    """A gateway that listens, for as long as the context is entered; yields its host and port.

    Raises:
        ConfigError: an expression that does not compile, an extra that is not installed, or an
            address that cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        metrics = Metrics(CollectorRegistry())
        session = await stack.enter_async_context(_session())
        site = await assemble(config, session=session, metrics=metrics, clock=loop.time)
        gateway = Gateway(site, metrics=metrics, clock=loop.time)
        stack.push_async_callback(site.retire)
        yield await _listen(gateway, config, stack)


def _session() -> aiohttp.ClientSession:
    """The one HTTP client: no cookies, no proxies from the environment, no inflating."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[tracing()],
        auto_decompress=False,
        trust_env=False,
        read_bufsize=64 * 1024,
    )


async def _listen(gateway: Gateway, config: Config, stack: AsyncExitStack) -> tuple[str, int]:
    server = HttpServer(
        gateway.handle,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        keepalive_timeout=KEEPALIVE_S,
        lingering_time=LINGER_S,
    )
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, config.server.host, config.server.port, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        address = f"{config.server.host}:{config.server.port}"
        raise ConfigError([f"cannot listen on {address}: {error.strerror or error}"]) from error
    host, port = runner.addresses[0][:2]
    logs.events.info(
        "listening",
        extra={
            "fields": {
                "host": host,
                "port": port,
                "pipelines": len(config.pipelines),
                "upstreams": sorted(config.upstreams),
            }
        },
    )
    if config.keys is None:
        logs.events.warning("no keys are configured: every pipeline is open to everyone")
    return host, port


async def _serve(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running(config):
        await stop.wait()
        logs.events.info("stopping")
    logs.events.info("stopped")


def serve(config: Config, *, config_path: Path) -> int:
    """Run the gateway until SIGINT or SIGTERM. Returns the process's exit code.

    Raises:
        ConfigError: see ``running``.
    """
    logs.setup()
    asyncio.run(_serve(config))
    return 0
