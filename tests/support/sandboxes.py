"""A running sandbox for a test, and what the rest of the process notices of it."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

from gateway.sandbox import Sandbox
from gateway.transform import Engine
from tests.support.timing import Stopwatch

ENGINES: tuple[Engine, ...] = get_args(Engine)
MIB = 1024 * 1024
TIME_S = 0.3
LATE_S_MAX = 0.1
GAP_S_MAX = 0.1
GROWTH_BYTES_MAX = 64 * MIB
ENDLESS = "($f := function() {$f()}; $f())"


@asynccontextmanager
async def running(**changes: Any) -> AsyncIterator[Sandbox]:
    settings: dict[str, Any] = {
        "time_s": TIME_S,
        "memory_bytes_max": 256 * MIB,
        "expression_bytes_max": 64 * 1024,
        "output_bytes_max": 16 * MIB,
        "depth_max": 300,
        "sequence_max": 1_000_000,
        "engine": "jsonatapy",
        "processes": 1,
        "waiting_max": 8,
        "waiting_s": 60.0,
        # Those who give way get nothing done in their time while the machine is busy.
        "niceness": 0,
    }
    sandbox = Sandbox(**(settings | changes))
    await sandbox.start()
    try:
        yield sandbox
    finally:
        await sandbox.close()
        # A transport that nobody closed says so when it is collected.
        gc.collect()
        assert child_pids(os.getpid()) == set()


def child_pids(parent: int) -> set[int]:
    """The sandbox's children of ``parent``, those included that nobody has reaped."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(after_name[1]) == parent and (b"sandbox_child" in command or not command):
                found.add(int(entry.name))
    return found


def page_faults(pid: int) -> int:
    """How often the process was given a page that it did not have."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


class Watch:
    """What another stream in the same loop would notice: gaps, and the memory of the process."""

    def __init__(self) -> None:
        self.gap_s = 0.0
        self.growth_bytes = 0

    async def __aenter__(self) -> Watch:
        self._before = self._resident()
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _tick(self) -> None:
        while True:
            gap = Stopwatch()
            await asyncio.sleep(0.01)
            self.gap_s = max(self.gap_s, gap.passed_s())
            self.growth_bytes = max(self.growth_bytes, self._resident() - self._before)

    @staticmethod
    def _resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
