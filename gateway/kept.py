"""What several configurations share, one after the other: made once, closed after the last.

Owns: who holds what, and that closing it takes no longer than it may.
Does not know: what is held, or when one configuration takes the place of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from gateway import logs

T = TypeVar("T")

#: What does not close by itself within so many seconds is left to the end of the process.
CLOSE_S: Final = 2.0


@dataclass(slots=True)
class _Held(Generic[T]):
    thing: T
    holders: int


class Kept(Generic[T]):
    """Things by all that they were made of. ``close`` ends one of them."""

    def __init__(self, close: Callable[[T], Awaitable[None]]) -> None:
        self._close = close
        self._held: dict[Hashable, _Held[T]] = {}

    async def take(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """The thing that is held under ``key``, else a new one. One caller at a time."""
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = _Held(await make(), 0)
        held.holders += 1
        return held.thing

    async def give_back(self, key: Hashable) -> None:
        """Undo one ``take``; the last one closes the thing. Never raises."""
        held = self._held[key]
        held.holders -= 1
        if held.holders:
            return
        del self._held[key]
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._close(held.thing)
        except TimeoutError:
            logs.events.warning(
                "not closed in time", extra={"fields": {"what": str(held.thing), "s": CLOSE_S}}
            )
        except Exception:  # noqa: BLE001  logged
            # Nobody waits for it who could do better, and others are to be closed after it.
            logs.events.exception("closing failed", extra={"fields": {"what": str(held.thing)}})

    def things(self) -> list[T]:
        """All that is held."""
        return [held.thing for held in self._held.values()]
