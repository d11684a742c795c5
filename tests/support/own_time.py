"""An event loop whose clock is its own: nobody waits in it, and nothing comes late.

Where only timers are left to wait for, the clock jumps to the first of them. What a test says about
times is then so to the nanosecond, however busy the machine is, and an hour takes no time.

Owns: the clock, and the complaint where everybody waits for what cannot come.
Does not know: threads, processes and sockets, which keep real time and are not waited for.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _Jumping(selectors.DefaultSelector):
    """Looks for what is ready, and lets time pass where nothing is."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready: list[Any] = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody in this loop waits for something that cannot come")
        if not ready and timeout is not None:
            self.now += max(0.0, timeout)
        return ready


class OwnTimeLoop(asyncio.SelectorEventLoop):
    """The event loop. Its time starts at 1000 s."""

    def __init__(self) -> None:
        self._selector_of_time = _Jumping()
        super().__init__(self._selector_of_time)

    def time(self) -> float:
        """Seconds since the loop was made, as it counts them."""
        return self._selector_of_time.now
