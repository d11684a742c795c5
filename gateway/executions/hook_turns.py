"""Which webhooks may take up how many of the deliveries that are made at once.

An endpoint that does not answer holds its delivery for as long as one may take. A webhook that was
slow or failed when it was last tried may therefore have a quarter of the places, all of those
together half of them, and the others go on beside them. What has no place is put off; those of one
webhook by different times, so that they do not all come back at once.

Owns: the places, and who has been slow.
Does not know: what is delivered, how it is put off.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

#: What a delivery may take without its webhook counting as slow, seconds.
QUICK_S: Final = 2.0
#: How long what has no place is put off at least and at most, and how far apart what follows it.
_WAIT_S: Final = (1.0, 60.0)
_APART_S: Final = 0.1
#: How many slow ones are kept in mind; then the one that has been so for longest is forgotten.
_KNOWN_MAX: Final = 10_000

#: A webhook: its owner and its ID.
Place = tuple[str, str]


class Turns:
    """The places of one process. ``at_once``: how many deliveries it makes at once."""

    def __init__(self, at_once: int) -> None:
        self._each_max = max(1, at_once // 4)
        self._all_max = max(1, at_once // 2)
        self._running: Counter[Place] = Counter()
        #: When the next one that has no place is to come back, by the slow webhook it is of.
        self._slow: dict[Place, float] = {}

    def begin(self, place: Place, now: float) -> float:
        """Take a place; 0: it is taken, and to be given back by ``end``. Else for how many seconds
        the delivery is to be put off. ``now``: seconds of a clock that does not jump."""
        if place in self._slow and (
            self._running[place] >= self._each_max or self._taken_by_slow() >= self._all_max
        ):
            low, high = _WAIT_S
            at = max(self._slow[place], now + low)
            if at > now + high:
                at = now + low
            self._slow[place] = at + _APART_S
            return at - now
        self._running[place] += 1
        return 0.0

    def end(self, place: Place, took_s: float, *, good: bool) -> None:
        """Give it back; ``good``: the other side has the message."""
        self._running[place] -= 1
        if not self._running[place]:
            del self._running[place]
        if good and took_s <= QUICK_S:
            self._slow.pop(place, None)
        else:
            self._slow.setdefault(place, 0.0)
            if len(self._slow) > _KNOWN_MAX:
                del self._slow[next(iter(self._slow))]

    def _taken_by_slow(self) -> int:
        return sum(number for place, number in self._running.items() if place in self._slow)
