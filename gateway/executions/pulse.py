"""Which holders have died, told by their counts of beats and nobody's wall clock.

Owns: how long a count must have stood still, and when nothing can be said.
Does not know: where counts come from, what becomes of the dead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

#: A holder is dead only where so many looks in a row have found its count unchanged: one look after
#: a long silence of the store says nothing of who was able to beat meanwhile.
_LOOKS: Final = 3


@dataclass(slots=True)
class _Seen:
    beats: int
    since: float
    looks: int = 0


class Pulse:
    """What one holder has seen of the others.

    Args:
        lease_s: how long a count may stand still, seconds.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._seen: dict[str, _Seen] = {}
        self._looked_at: float | None = None

    def look(self, holders: Mapping[str, int], now: float) -> list[tuple[str, int]]:
        """Take in every other holder's count. Returns the dead, with the counts they stopped at.

        Args:
            now: seconds of a clock that does not jump.
        """
        silent = self._looked_at is not None and now - self._looked_at > self._lease_s / 2
        self._looked_at = now
        for gone in self._seen.keys() - holders.keys():
            del self._seen[gone]
        dead = []
        for holder, beats in holders.items():
            seen = self._seen.get(holder)
            if seen is None or seen.beats != beats or silent:
                self._seen[holder] = _Seen(beats, now)
                continue
            seen.looks += 1
            if seen.looks >= _LOOKS and now - seen.since >= self._lease_s:
                dead.append((holder, beats))
        return dead
