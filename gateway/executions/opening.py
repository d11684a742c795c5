"""What a configuration's ``executions:`` section asks for, opened and closed again.

Owns: which store stands behind which URL, and the order in which things begin and end.
Does not know: what any of them does.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from gateway.errors import ConfigError
from gateway.executions.hooks import HookLoop
from gateway.executions.measured_store import measured
from gateway.executions.service import Executions
from gateway.executions.sqlite import SqliteStore
from gateway.executions.store import Store
from gateway.metrics import Metrics
from gateway.sections import ExecutionsConfig
from gateway.site import Site


def store_of(section: ExecutionsConfig) -> Store:
    """The store that ``section`` names, not opened yet. Raises ConfigError where its extra is
    missing."""
    kind, _, rest = section.store.partition(":")
    if kind == "sqlite":
        return SqliteStore(Path(rest))
    try:
        from gateway.executions.redis import RedisStore  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ConfigError(
            [f"executions.store: {kind}:// needs the extra 'redis' ({error})"]
        ) from error
    password = None if section.password is None else section.password.get_secret_value()
    return RedisStore(section.store, username=section.username, password=password)


@asynccontextmanager
async def keeping(
    section: ExecutionsConfig,
    *,
    site: Callable[[], Site],
    metrics: Metrics,
    clock: Callable[[], float],
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Executions]:
    """Executions, as ``section`` asks for them; what is queued runs from then on.

    Args:
        clock: monotonic seconds.
        wall: Unix seconds, of a clock that may jump.

    Raises:
        ConfigError: an extra that is not installed.
        StoreFailed: the store cannot be opened.
    """

    async def as_json(observation: bytes) -> bytes:
        view = await site().services.observation_to_json.run(observation, {})
        return b"{}" if view is None else view

    async def evaluate(expression: str, observation: bytes) -> bytes | None:
        return await site().services.sandbox.evaluate(expression, observation, {})

    async with AsyncExitStack() as stack:
        opened = store_of(section)
        await opened.open()
        stack.push_async_callback(opened.close)
        store = measured(opened, metrics, clock)
        holder = uuid.uuid4().hex
        hooks = HookLoop(
            store,
            section.hooks,
            holder=holder,
            as_json=as_json,
            evaluate=evaluate,
            metrics=metrics,
            clock=clock,
            wall=wall,
        )
        executions = Executions(
            store,
            section,
            holder=holder,
            site=site,
            nudge=hooks.nudge,
            metrics=metrics,
            clock=clock,
            wall=wall,
        )
        stack.push_async_callback(executions.close)
        stack.push_async_callback(hooks.close)  # the sooner of the two: one holder is both
        await executions.start()
        hooks.start()
        yield executions
