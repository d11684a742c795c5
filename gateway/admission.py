"""How many calls of one upstream run at once, and who waits for a turn.

Owns: the slots and the queue before them: first come, first served, bounded in length and time.
Does not know: what is done in a slot.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from enum import StrEnum


class Refused(StrEnum):
    """Why a call was not made: the values of the metric's ``reason``."""

    BREAKER = "breaker"
    QUEUE = "queue"
    WAIT = "wait"


class Admission:
    """Slots for ``running_max`` calls; ``waiting_max`` may wait for one, each up to ``wait_s``."""

    def __init__(self, *, running_max: int, waiting_max: int, wait_s: float) -> None:
        self._running_max = running_max
        self._waiting_max = waiting_max
        self._wait_s = wait_s
        self.running = 0
        # In the order they came. One that gives up must leave from the middle at no cost, or those
        # that came and went would pile up behind calls that run for long.
        self._queue: OrderedDict[asyncio.Future[bool], None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._queue)

    def take(self) -> bool:
        """Take a slot if one is free: whether it was."""
        if self.running < self._running_max:
            self.running += 1
            return True
        return False

    def enter(self) -> Refused | asyncio.Future[bool] | None:
        """Take a slot at once (``None``), or be refused, or stand in the queue: ``wait`` then."""
        if self.take():
            return None
        if len(self._queue) >= self._waiting_max:
            return Refused.QUEUE
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue[place] = None
        return place

    async def wait(self, place: asyncio.Future[bool], ends_at: float | None) -> bool:
        """Wait in the queue until a slot is free: whether one was, before the wait was too long or
        ``ends_at`` (loop time) came. One who is cancelled meanwhile holds no slot."""
        loop = asyncio.get_running_loop()
        at = loop.time() + self._wait_s
        timer = loop.call_at(at if ends_at is None else min(at, ends_at), _give_up, place)
        try:
            return await place
        except asyncio.CancelledError:
            # The slot may have come in the same turn of the loop as the cancellation.
            if place.done() and not place.cancelled() and place.result():
                self.leave()
            raise
        finally:
            timer.cancel()
            self._queue.pop(place, None)

    def leave(self) -> None:
        """Give a slot back: to whoever has waited longest, if anyone."""
        while self._queue:
            place, _ = self._queue.popitem(last=False)
            if not place.done():
                place.set_result(True)
                return
        self.running -= 1


def _give_up(place: asyncio.Future[bool]) -> None:
    if not place.done():
        place.set_result(False)
