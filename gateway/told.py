"""What a process was told: to stop, to stop at once, to reload.

Owns: which signal means what.
Does not know: how anything is stopped or reloaded.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


class Told:
    """What was told so far."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.at_once = asyncio.Event()
        #: The signal that said so last.
        self.number = 0
        #: Whether whoever sends requests is still to learn of the end.
        self.pre_stop = False
        self._reload: Callable[[], None] | None = None
        self._hung_up = False

    def by_signals(self) -> None:
        """Heed SIGINT, SIGTERM and SIGHUP from now on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.by_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def by_signal(self, number: int) -> None:
        """``number`` came: the first one stops, a second one at once."""
        if self.stop.is_set():
            self.at_once.set()
        self.number = number
        # A person at a terminal waits for the end; nobody else is to be told of it.
        self.pre_stop = number == signal.SIGTERM
        self.stop.set()

    def to_stop(self, *, pre_stop: bool) -> None:
        """Stop, if that was not told already."""
        if not self.stop.is_set():
            self.pre_stop = pre_stop
            self.stop.set()

    def to_cut(self, number: int) -> None:
        """Stop at once."""
        self.number = number
        self.stop.set()
        self.at_once.set()

    def on_reload(self, reload: Callable[[], None]) -> None:
        """Call ``reload`` for each SIGHUP from now on, and for one that came before."""
        self._reload = reload
        if self._hung_up:
            reload()

    def _hang_up(self) -> None:
        self._hung_up = True
        if self._reload is not None:
            self._reload()
