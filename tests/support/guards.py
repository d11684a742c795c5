"""Calls through a guard, and the failures that they meet."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from gateway.errors import (
    Code,
    GatewayError,
    UpstreamFailed,
)
from gateway.guard import Deadlines, Fate
from gateway.model import Event, Frames
from tests.support.fakes import CALL, Guarded

LONG = Deadlines(first_event_s=60, idle_s=60)
ALIVE = Frames(b"", 0)
UNREACHABLE = UpstreamFailed("upstream up: cannot be reached", code=Code.UPSTREAM_UNREACHABLE)
BROKEN = UpstreamFailed("upstream up: broke off in mid-answer")
QUICK = {"backoff_s": 0.001, "backoff_s_max": 0.01}


def busy(retry_after_s: float | None = None, status: int = 503) -> UpstreamFailed:
    return UpstreamFailed(
        "upstream up: answered 503",
        code=Code.UPSTREAM_BUSY,
        status=status,
        retry_after_s=retry_after_s,
    )


async def read(it: Guarded, deadlines: Deadlines = LONG, fate: Fate | None = None) -> list[Event]:
    async with aclosing(it.guard.stream(CALL, deadlines, fate or Fate())) as events:
        return [event async for event in events]


async def refused(
    it: Guarded, deadlines: Deadlines = LONG, error: type[GatewayError] = UpstreamFailed
) -> Any:
    with pytest.raises(error) as info:
        await read(it, deadlines)
    return info.value


async def open_breaker(it: Guarded) -> None:
    for _ in range(5):
        await refused(it)
