"""The one process that serves where there are no workers.

Owns: what it listens on, its signals, its exit code.
Does not know: what is opened (``serving``).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway import logs, loops, memory
from gateway.config import Config
from gateway.loaded import Load, Loaded
from gateway.reloading import Reloader
from gateway.serving import Life, Serving, new_metrics, opened
from gateway.told import Told
from gateway.vitals import introduce


@asynccontextmanager
async def running(
    config: Config, *, wall: Callable[[], float] = time.time
) -> AsyncIterator[tuple[str, int]]:
    """A gateway that listens in this process, for as long as the context is entered; yields its
    host and port. What still runs when the context is left is ended at once.

    ``wall``: Unix seconds, of a clock that may jump.

    Raises:
        ConfigError: an expression that does not compile, an extra that is not installed, or an
            address that cannot be listened on.
        GatewayError: a child process for expressions does not start.
    """
    async with listening(Loaded(config), lambda _: config, wall) as there:
        yield there.address


@dataclass(frozen=True, slots=True)
class Listening:
    """A gateway that listens: host and port, and those of the port for watching where there is
    one."""

    serving: Serving
    reloader: Reloader
    address: tuple[str, int]
    admin: tuple[str, int] | None


@asynccontextmanager
async def listening(
    loaded: Loaded, load: Load, wall: Callable[[], float] = time.time
) -> AsyncIterator[Listening]:
    """As ``running``; it loads anew when asked, and as the configuration says."""
    metrics = new_metrics()
    introduce(metrics)
    metrics.workers.labels().set(1)
    metrics.worker_restarts.labels()
    config = loaded.config
    async with opened(config, loaded.hash, metrics, files=loaded.paths, wall=wall) as serving:
        reloader = Reloader(loaded, load=load, apply=serving.apply, metrics=metrics)
        try:
            server, admin = config.server, None
            address = await serving.listener.open(server.host, server.port)
            if server.admin is not None:
                admin = await serving.admin.open(
                    server.admin.host, server.admin.port, "server.admin"
                )
            reloader.start()
            loaded.log_start(address, 1, admin)
            yield Listening(serving, reloader, address, admin)
        finally:
            await reloader.close()


def serve(loaded: Loaded, load: Load) -> int:
    """Run the gateway in this process until told to stop. See ``processes.serve``."""
    logs.setup()
    memory.give_back()
    return loops.run(_serve(loaded, load))


async def _serve(loaded: Loaded, load: Load) -> int:
    told = Told()
    told.by_signals()

    @asynccontextmanager
    async def open() -> AsyncIterator[Serving]:
        async with listening(loaded, load) as there:
            told.on_reload(there.reloader.ask)
            yield there.serving

    return await Life(open, told).run()
