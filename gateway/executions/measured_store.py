"""How long a store takes, call by call.

Owns: which calls are timed, and under which names.
Does not know: what a store does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from gateway.executions.store import Store
from gateway.metrics import Metrics

#: These wait for something to happen, as long as they may.
_WAITING: Final = {"claim", "news"}


class _Measured:
    def __init__(self, store: Store, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name not in _WAITING:
            call = self._timed(name, call)
        setattr(self, name, call)
        return call

    def _timed(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        observed, clock = self._metrics.store_duration.labels(name), self._clock

        async def timed(*arguments: Any, **named: Any) -> Any:
            began = clock()
            try:
                return await call(*arguments, **named)
            finally:
                observed.observe(clock() - began)

        return timed


def measured(store: Store, metrics: Metrics, clock: Callable[[], float]) -> Store:
    """``store``, with the time of each call in ``gateway_store_seconds``."""
    return cast("Store", _Measured(store, metrics, clock))
