"""How long an upstream takes to say something, lately.

Owns: the live average that follows peaks at once and forgets them slowly; the live p95.
Does not know: what is measured, what time it is: that is passed in.
"""

from __future__ import annotations

from math import ceil, exp
from typing import Final

#: Calls that the p95 is taken over, and the fewest that say anything.
_KEPT: Final = 128
_ENOUGH: Final = 20
#: After so many seconds an observation weighs 1/e of what it did.
_FADE_S: Final = 10.0


class Latency:
    """Times of one upstream, seconds. A constant number of them is held."""

    def __init__(self) -> None:
        self._kept: list[float] = []
        self._oldest = 0
        self._p95: float | None = None
        self._average = 0.0
        self._noted: float | None = None

    def note(self, taken_s: float, now: float) -> None:
        """A call that took ``taken_s`` to its first content, which came at ``now``."""
        if len(self._kept) < _KEPT:
            self._kept.append(taken_s)
        else:
            self._kept[self._oldest] = taken_s
            self._oldest = (self._oldest + 1) % _KEPT
        self._p95 = None
        if self._noted is None or taken_s > self._average:
            self._average = taken_s
        else:
            weight = exp((self._noted - now) / _FADE_S)
            self._average = weight * self._average + (1 - weight) * taken_s
        self._noted = now

    def note_at_least(self, waited_s: float, now: float) -> None:
        """A call that was given up after ``waited_s`` without an event. Left out, the slowest calls
        would be missing, and what is slow would look quicker and quicker."""
        if waited_s > (self.average_s(now) or 0.0):
            self.note(waited_s, now)

    def average_s(self, now: float) -> float | None:
        """The average; without calls it sinks, so that what was slow is tried again. ``None``:
        nothing is known."""
        return None if self._noted is None else self._average * exp((self._noted - now) / _FADE_S)

    def p95_s(self) -> float | None:
        """What 95 of 100 of the last calls did not exceed; ``None``: there were too few."""
        if self._p95 is None and len(self._kept) >= _ENOUGH:
            self._p95 = sorted(self._kept)[ceil(0.95 * len(self._kept)) - 1]
        return self._p95
