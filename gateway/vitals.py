"""How the processes of the gateway are: what they hold of memory and of files, since when.

Linux tells it in ``/proc``; where there is none, there are no such series.

Owns: the reading of it, every few seconds, for this process and the children that it has started
for expressions; what was said of late.
Does not know: what needs so much, or how much there may be.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from gateway import __version__
from gateway.metrics import Metrics, Process
from gateway.tallies import Gauge

#: Between two looks, seconds: each reads a file of every process, some 0.1 ms in all.
LOOK_S: Final = 5.0
#: How long a last word counts, seconds.
LATELY_S: Final = 60.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")


class Lately:
    """A gauge without labels that tells what was said last, for a while. Of several workers each is
    asked now and then, and what one was told long ago is not to count beside another's last word.
    """

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._fading: asyncio.TimerHandle | None = None

    def say(self, value: float) -> None:
        """It is ``value`` now."""
        self._gauge.labels().set(value)
        if self._fading is not None:
            self._fading.cancel()
        self._fading = asyncio.get_running_loop().call_later(LATELY_S, self._fade)

    def _fade(self) -> None:
        self._gauge.forget((), {()})


def introduce(metrics: Metrics) -> None:
    """Tell which version has been started now."""
    metrics.build_info.labels(__version__).set(1)
    metrics.started.labels().set(time.time())


@asynccontextmanager
async def watched(metrics: Metrics, process: Process) -> AsyncIterator[None]:
    """Within it ``metrics`` have what this process, a ``process``, and its children hold.

    Those of a supervisor tell for themselves."""
    look(metrics, process)
    looking = asyncio.create_task(_look_again(metrics, process))
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def _look_again(metrics: Metrics, process: Process) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        look(metrics, process)


def look(metrics: Metrics, process: Process) -> None:
    """Note how it is now."""
    own = os.getpid()
    metrics.memory.labels(process).set(resident_bytes([own]))
    if process is Process.WORKER:
        metrics.memory.labels(Process.EXPRESSIONS).set(resident_bytes(_children(own)))
        metrics.open_files.labels().set(_open_files() / _files_max())


def resident_bytes(pids: Iterable[int]) -> int:
    """What these processes have in memory together; those that have ended meanwhile have none."""
    pages = 0
    for pid in pids:
        with suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * _PAGE_BYTES


def _children(pid: int) -> list[int]:
    """Those that its first thread has started, which runs the loop."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # not every kernel lists them
        return []


def _open_files() -> int:
    try:
        # Linux 6.2 and later say how many there are; to list thousands takes the loop's time.
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def _files_max() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft > 0 else 2**30  # no limit
