"""Waiting for what comes when it can, and measuring what is promised to come soon.

A test waits for an event, not for a time: ``patience`` and ``until`` only end one that would never
end. Where a time itself is the promise, a ``Stopwatch`` leaves out what other work on the machine
took of it, so that a busy machine does not break a promise that the gateway keeps.

Owns: how long is long enough, and the times in which nothing could have been done.
Does not know: what is waited for.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from pathlib import Path
from time import monotonic
from typing import ParamSpec

#: Longer than anything takes that still comes, seconds.
PATIENCE_S = 60.0
#: So many times as long as is promised may pass: a machine whose cores are shared with others can
#: be half as fast for minutes without a sign of it in any count. What breaks a promise takes more.
ROOM = 2.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def patience() -> asyncio.Timeout:
    """Within it, what never comes ends in a TimeoutError."""
    return asyncio.timeout(PATIENCE_S)


async def until(condition: Callable[[], object], every_s: float = 0.005) -> None:
    """Wait until ``condition()`` is so. Raises TimeoutError if it never is."""
    async with patience():
        while not condition():
            await asyncio.sleep(every_s)


class Stopwatch:
    """Runs from its making on.

    Args:
        family: leave out also the waits of this process's other threads and of its children. They
            are added up, side by side or not, so that rather too much is left out.
    """

    def __init__(self, *, family: bool = False) -> None:
        self._family = family
        self._before = self._waits()
        self._stolen_s = _stolen_s()
        self._began = monotonic()

    def passed_s(self) -> float:
        """Seconds, less those in which the machine was busy otherwise; never under 0."""
        passed_s = monotonic() - self._began
        stolen_s = _stolen_s() - self._stolen_s
        waited_s = sum(
            waits_s - self._before.get(thread, 0.0) for thread, waits_s in self._waits().items()
        )
        return max(0.0, passed_s - stolen_s - waited_s)

    def _waits(self) -> dict[int, float]:
        if self._family:
            return dict(_family_waits(os.getpid()))
        thread = threading.get_native_id()
        return {thread: _waits_s(Path(f"/proc/self/task/{thread}"))}


@asynccontextmanager
async def promised(within_s: float) -> AsyncIterator[Stopwatch]:
    """What is in it must be done within so many seconds of a machine that does nothing else, and
    within ``ROOM`` times as many of any."""
    watch = Stopwatch(family=True)
    async with patience():
        yield watch
    passed_s = watch.passed_s()
    assert passed_s < within_s * ROOM, f"took {passed_s:.3f} s, not {within_s:g} s"


def _waits_s(thread: Path) -> float:
    """How long a thread has been ready to run without a core to run on, seconds."""
    try:
        return int((thread / "schedstat").read_text().split()[1]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # it has ended, or this system does not count


def _family_waits(pid: int) -> Iterator[tuple[int, float]]:
    """The same of each thread of a process and of its descendants, by ID."""
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            yield int(thread.name), _waits_s(thread)
            for child in (thread / "children").read_text().split():
                yield from _family_waits(int(child))
    except (FileNotFoundError, ProcessLookupError):
        return  # it has ended meanwhile


def _stolen_s() -> float:
    """How long a virtual machine's cores were lent to others, seconds."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()
    return int(fields[8]) / _TICKS_PER_S


@contextmanager
def uncollected() -> Iterator[None]:
    """Within it no garbage is collected: that of all tests before, perhaps, which takes long."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


P = ParamSpec("P")


def every_time(test: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """For a test that holds a delay to a promise: it fails where it fails three times in a row.

    What the code does, it does every time; a delay that comes once is the machine's.
    """

    @wraps(test)
    async def tried(*args: P.args, **kwargs: P.kwargs) -> None:
        for _ in range(2):
            try:
                await test(*args, **kwargs)
            except AssertionError:
                gc.collect()
            else:
                return
        await test(*args, **kwargs)

    return tried
