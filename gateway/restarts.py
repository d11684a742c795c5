"""When a process that has ended is started again.

Owns: the pauses.
Does not know: what the process is, or why it ended.
"""

from __future__ import annotations

from typing import Final

#: A process that has served for so long did not end because of how it starts, seconds.
STEADY_S: Final = 10.0
#: The pause after the second quick end in a row, and the longest, seconds.
PAUSE_S: Final = 0.5
PAUSE_S_MAX: Final = 30.0


class Restarts:
    """The pauses of one place. The first quick end is followed by none: whoever kills a process
    once waits for nothing."""

    def __init__(self) -> None:
        self._quick = 0

    def pause_s(self, served_s: float | None) -> float:
        """Seconds until a process is started in the place of one that served for ``served_s``
        seconds; ``None``: that never got so far."""
        if served_s is not None and served_s >= STEADY_S:
            self._quick = 0
            return 0.0
        self._quick += 1
        if self._quick == 1 and served_s is not None:
            return 0.0
        # The exponent is bounded: so large a power would overflow after a night of it.
        return float(min(PAUSE_S_MAX, PAUSE_S * 2.0 ** min(self._quick - 1, 16)))
