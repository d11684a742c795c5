"""What a process was told: to stop, to stop at once, to reload.

Owns: which signal means what, and that the process's end comes when it was promised.
Does not know: how anything is stopped or reloaded.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable

from gateway import logs


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


def end_within(limit_s: float, code: int) -> None:
    """End the process in ``limit_s`` seconds if it has not ended by itself: a thread may still hang
    in a library (a host name being looked up), and nobody is left who waits for it."""
    timer = threading.Timer(limit_s, _end, (code,))
    timer.daemon = True
    timer.start()


def _end(code: int) -> None:
    logs.flush()
    os._exit(code)
