"""The limits of one call, and the alarm that keeps them.

Owns: which limit runs out when, its error, and the cancelling of a wait that is too long.
Does not know: what is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from gateway.alarms import Alarm, Alarms
from gateway.errors import UpstreamTimeout


class Deadlines(Struct, frozen=True):
    """A call's limits in seconds; ``ends_at``: when the whole run must be over, loop time.

    ``total_key`` is the key of the configuration that ``total_s`` was read from.
    """

    first_event_s: float
    idle_s: float
    ends_at: float | None = None
    total_s: float | None = None
    total_key: str = "total_s"

    def by(self, at: float) -> float:
        """``at``, or when the run must be over, whichever is earlier."""
        return at if self.ends_at is None else min(at, self.ends_at)


_NEVER: Final = float("inf")
#: When the alarm of a watch that is over rings: no moment is earlier, so none is set any more.
_OVER: Final = float("-inf")


class Watch:
    """The limits of one attempt of a call, kept while a task waits for its next event.

    One alarm serves all events: an event only moves the moment that counts, and the alarm, when it
    rings, is set anew if that moment has moved on. As with ``asyncio.timeout``, whoever else
    cancels the task at the same time comes first.

    Args:
        upstream: its name, for the error.
        clock: the running loop's time, seconds.
        first_by: when the first event of the call's earlier attempts was due, if there were any.
    """

    __slots__ = (
        "_alarm",
        "_alarms",
        "_at",
        "_began",
        "_cancelling",
        "_clock",
        "_deadlines",
        "_due",
        "_fired",
        "_task",
        "_upstream",
        "_waiting",
        "blames",
        "first_by",
        "heard_at",
        "silent",
    )

    def __init__(
        self,
        upstream: str,
        deadlines: Deadlines,
        clock: Callable[[], float],
        alarms: Alarms,
        first_by: float,
    ) -> None:
        self._upstream = upstream
        self._deadlines = deadlines
        self._clock = clock
        self._alarms = alarms
        self._began = clock()
        #: By when the first event must come: all attempts of a call share the time for it.
        self.first_by = min(first_by, self._began + deadlines.first_event_s)
        #: No event has come yet: until whoever uses this says so.
        self.silent = True
        #: When the last sign of life came, from which ``idle_s`` counts. Set it freely, once
        #: ``go_on`` has been called after the first event.
        self.heard_at = self._began
        #: Whether it is the upstream's fault where a limit ran out.
        self.blames = True
        self._at = self.first_by
        #: When the alarm rings.
        self._due = _NEVER
        self._alarm: Alarm | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._waiting = False
        self._fired = False

    def begin(self) -> None:
        """The current task waits from now on, as long as the limits allow."""
        self._task = task = asyncio.current_task()
        self._cancelling = 0 if task is None else task.cancelling()
        self.go_on()

    def hold(self) -> None:
        """The same task waits for others than the upstream, and the limits do not count."""
        self._waiting = False

    def go_on(self) -> None:
        """It waits for the upstream again, or still, after something came."""
        self._waiting = True
        self.heard_at = self._clock()
        self._set(self._moment())

    def end(self) -> None:
        """It waits no more."""
        self._waiting = False
        if self._fired:  # what was waited for came in spite of it
            self._uncancel()

    def ran_out(self) -> bool:
        """Whether it was a limit, and nobody else, that cancelled the wait."""
        return self._fired and self._uncancel() <= self._cancelling

    def timeout(self) -> UpstreamTimeout:
        """The error for the limit that ran out."""
        deadlines = self._deadlines
        if deadlines.ends_at is not None and deadlines.ends_at <= self._at:
            key, limit_s, what = deadlines.total_key, deadlines.total_s or 0.0, "was not done"
        elif self.silent:
            key, limit_s, what = "first_event_s", deadlines.first_event_s, "sent nothing"
        else:
            key, limit_s, what = "idle_s", deadlines.idle_s, "sent nothing"
        if key != "idle_s":
            # One that was sending, or that others left little time, has not failed.
            self.blames = self.silent and self._clock() - self._began >= limit_s / 2
        return UpstreamTimeout(f"upstream {self._upstream}: {what} within {limit_s:g} s ({key})")

    def close(self) -> None:
        """Stop the alarm, for good: a source that was held back may be let go on later."""
        self._due = _OVER
        if self._alarm is not None:
            self._alarms.stop(self._alarm)
            self._alarm = None

    def wake(self) -> None:
        """See ``Sleeper``: the moment has come, if it has not moved on."""
        due, self._due = self._due, _NEVER
        self._alarm = None
        if not self._waiting:
            return  # the event is with the caller; the next wait sets the alarm again
        self._at = self._moment()
        if self._at > due:
            self._set(self._at)
        elif self._task is not None:
            self._fired = True
            self._task.cancel()

    def _moment(self) -> float:
        """When the first of the limits runs out."""
        deadlines = self._deadlines
        at = self.first_by if self.silent else self.heard_at + deadlines.idle_s
        return deadlines.by(at)

    def _set(self, at: float) -> None:
        if at < self._due:
            if self._alarm is not None:
                self._alarms.stop(self._alarm)
            self._due = at
            self._alarm = self._alarms.set(at, self)

    def _uncancel(self) -> int:
        self._fired = False
        return 0 if self._task is None else self._task.uncancel()
