"""When an upstream that keeps failing is left alone, and when it is tried again.

Owns: the circuit breaker's states, and the sliding window over which failures are counted.
Does not know: what a call is, what counts as its failure, what time it is: that is passed in.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Final, NamedTuple

#: The window moves in steps of this share of it: finer counts more exactly, and holds more.
_BUCKETS: Final = 10


class State(IntEnum):
    """The values of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Turn(NamedTuple):
    """Leave to make one call. ``period`` counts the breaker's openings and closings."""

    period: int
    probe: bool


class Window:
    """How many calls went well and how many failed in the last ``window_s`` seconds, to a tenth of
    that. Constant time for each call, and at most eleven pairs of numbers held."""

    def __init__(self, window_s: float) -> None:
        self._step_s = window_s / _BUCKETS
        # When each begins, counted in steps, then its two sums.
        self._buckets: deque[list[int]] = deque()
        self.calls = 0
        self.failures = 0

    def add(self, now: float, *, failed: bool) -> None:
        """Count one call that ended at ``now``."""
        step, buckets = int(now / self._step_s), self._buckets
        if not buckets or buckets[-1][0] != step:
            self.forget(now)
            buckets.append([step, 0, 0])
        bucket = buckets[-1]
        bucket[1] += 1
        bucket[2] += failed
        self.calls += 1
        self.failures += failed

    def forget(self, now: float) -> None:
        """Drop what is older than the window."""
        oldest = int(now / self._step_s) - _BUCKETS
        while self._buckets and self._buckets[0][0] < oldest:
            _, calls, failures = self._buckets.popleft()
            self.calls -= calls
            self.failures -= failures

    def clear(self) -> None:
        """Drop all of it."""
        self._buckets.clear()
        self.calls = self.failures = 0


class Breaker:
    """One upstream's breaker. Every ``now`` is in seconds, and never goes back.

    It opens after ``failures`` in a row (0: however many), or once ``failure_rate`` of at least
    ``calls_min`` calls within ``window_s`` have failed. While it is open, one call in ``open_s`` is
    let through as a probe; one that is answered closes it. A call is told of by the ``Turn`` it was
    made with: how a call ends that began before the breaker opened or closed says nothing of now.
    """

    def __init__(
        self,
        *,
        failures: int,
        failure_rate: float,
        calls_min: int,
        window_s: float,
        open_s: float,
    ) -> None:
        self._failures_max = failures
        self._failure_rate = failure_rate
        self._calls_min = calls_min
        self._open_s = open_s
        self._window = Window(window_s)
        self._in_a_row = 0
        self._period = 0
        #: The turn that every call takes while the breaker is closed; ``None``: it is not.
        self.ordinary: Turn | None = Turn(0, probe=False)
        self._probes = 0
        self._due = 0.0

    @property
    def state(self) -> State:
        """Half open while a probe is under way."""
        if self.ordinary is not None:
            return State.CLOSED
        return State.HALF_OPEN if self._probes else State.OPEN

    def admits(self, now: float) -> bool:
        """Whether ``take`` would let a call through."""
        return self.ordinary is not None or now >= self._due

    def rest_s(self, now: float) -> float:
        """Seconds until a call is let through; 0 where one is now."""
        return 0.0 if self.admits(now) else self._due - now

    def take(self, now: float) -> Turn | None:
        """Leave for one call; ``None``: it must not be made. Whoever takes it tells how it went."""
        if self.ordinary is not None:
            return self.ordinary
        if now < self._due:
            return None
        # A probe that hangs does not keep the next one from going.
        self._due = now + self._open_s
        self._probes += 1
        return Turn(self._period, probe=True)

    def answered(self, turn: Turn, now: float) -> Turn:
        """The upstream answered. Returns the turn that the rest of the call goes by."""
        if turn.period != self._period:
            return turn
        if turn.probe:
            return self._close()
        self._in_a_row = 0
        self._window.add(now, failed=False)
        return turn

    def failed(self, turn: Turn, now: float) -> None:
        """The upstream failed."""
        if turn.period != self._period:
            return
        if turn.probe:
            self._probes -= 1
            self._due = max(self._due, now + self._open_s)
            return
        self._in_a_row += 1
        self._window.add(now, failed=True)
        enough = self._window.calls >= self._calls_min
        if 0 < self._failures_max <= self._in_a_row or (
            enough and self._window.failures >= self._failure_rate * self._window.calls
        ):
            self.ordinary = None
            self._period += 1
            self._due = now + self._open_s

    def gave_back(self, turn: Turn, now: float) -> None:
        """The call ended without saying anything of the upstream: another may try it at once."""
        if turn.probe and turn.period == self._period:
            self._probes -= 1
            self._due = now

    def hasten(self, now: float) -> None:
        """Let the next call through at once: there is reason to think that it will be answered."""
        if self.ordinary is None:
            self._due = min(self._due, now)

    def _close(self) -> Turn:
        self._period += 1
        self.ordinary = Turn(self._period, probe=False)
        self._probes = 0
        self._in_a_row = 0
        self._window.clear()
        return self.ordinary
