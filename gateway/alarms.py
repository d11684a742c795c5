"""Many moments to keep, with one of the loop's timers.

A timer of uvloop's is half a kilobyte, and to set and stop it takes 3 µs; an alarm is 100 bytes and
half a microsecond. That counts for each of ten thousand open streams, and for each call, which sets
its limit only to stop it again.

Owns: which alarm is the next, and the one timer that is set for it.
Does not know: what the alarms are for.
"""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from typing import Final, Protocol

from msgspec import Struct

_NEVER: Final = float("inf")
#: When the timer goes off while alarms ring: no moment is earlier, so none is set meanwhile.
_OVER: Final = float("-inf")
#: So many ring before others have their turn.
_AT_ONCE: Final = 128
#: So many stopped alarms may be kept, whatever else there is.
_STOPPED_MAX: Final = 64


class Sleeper(Protocol):
    """Who is to be woken."""

    def wake(self) -> None:
        """It is time."""
        ...


class Alarm(Struct, order=True):
    """One moment, in the loop's time; ``number`` tells those of one moment apart. ``sleeper`` is
    ``None`` once it has been stopped or has rung."""

    at: float
    number: int
    sleeper: Sleeper | None


class Alarms:
    """Alarms that ring in one loop, in which all its methods are called."""

    __slots__ = ("_due", "_heap", "_number", "_stopped", "_timer")

    def __init__(self) -> None:
        self._heap: list[Alarm] = []
        self._number = 0
        self._stopped = 0
        #: When the timer goes off.
        self._due = _NEVER
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float, sleeper: Sleeper) -> Alarm:
        """Wake ``sleeper`` at ``at``, loop time, unless the alarm is stopped before."""
        self._number += 1
        alarm = Alarm(at, self._number, sleeper)
        heappush(self._heap, alarm)
        if at < self._due:
            self._arm(at)
        return alarm

    def stop(self, alarm: Alarm) -> None:
        """Let it not ring. Nothing of its sleeper is kept."""
        if alarm.sleeper is None:
            return
        alarm.sleeper = None
        self._stopped += 1
        if self._stopped > _STOPPED_MAX and self._stopped * 2 > len(self._heap):
            self._heap = [each for each in self._heap if each.sleeper is not None]
            heapify(self._heap)
            self._stopped = 0

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = at
        if at != _NEVER:
            self._timer = asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        """Wake those whose time has come, and set the timer for the next."""
        # A loop may fire its timers by whole milliseconds: what was due with this one is due.
        now = max(self._due, asyncio.get_running_loop().time())
        self._due = _OVER
        try:
            for _ in range(_AT_ONCE):
                heap = self._heap
                if not heap or heap[0].at > now:
                    break
                alarm = heappop(heap)
                sleeper, alarm.sleeper = alarm.sleeper, None
                if sleeper is None:
                    self._stopped -= 1
                else:
                    sleeper.wake()
        finally:
            self._arm(self._heap[0].at if self._heap else _NEVER)
