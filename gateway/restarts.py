"""When a process that has ended is started again.

Owns: the pauses.
Does not know: what the process is, or why it ended.
"""

from __future__ import annotations

from typing import Final

#: A process that has served for so long did not end because of how it starts, seconds.
STEADY_S: Final = 10.0
#: The pause after the second quick end in a row, from which on they double, and the longest one:
#: seconds.
PAUSE_S: Final = 0.5
PAUSE_S_MAX: Final = 30.0


class Restarts:
    """The pauses of one place. The first quick end is followed by none: whoever kills a process
    once waits for nothing."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def pause_s(self, served_s: float | None) -> float:
        """Seconds until a process is started in the place of one that served for ``served_s``
        seconds; ``None``: that never got so far."""
        if served_s is not None and served_s >= STEADY_S:
            self._next_s = 0.0
            return 0.0
        pause_s = self._next_s if served_s is not None else max(self._next_s, PAUSE_S)
        self._next_s = min(PAUSE_S_MAX, max(PAUSE_S, 2 * pause_s))
        return pause_s
