"""The one process that serves where there are no workers.

Owns: what it listens on, its signals, its exit code.
Does not know: what is opened (``serving``).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

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
    async with _listening(Loaded(config), lambda _: config, wall) as (_, _, address):
        yield address


@asynccontextmanager
async def _listening(
    loaded: Loaded, load: Load, wall: Callable[[], float] = time.time
) -> AsyncIterator[tuple[Serving, Reloader, tuple[str, int]]]:
    metrics = new_metrics()
    introduce(metrics)
    metrics.workers.labels().set(1)
    metrics.worker_restarts.labels()
    async with opened(loaded.config, loaded.hash, metrics, wall=wall) as serving:
        reloader = Reloader(loaded, load=load, apply=serving.apply, metrics=metrics)
        try:
            server = loaded.config.server
            address = await serving.listener.open(server.host, server.port)
            reloader.start()
            loaded.log_start(address, 1)
            yield serving, reloader, address
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
        async with _listening(loaded, load) as (serving, reloader, _):
            told.on_reload(reloader.ask)
            yield serving

    return await Life(open, told).run()
