"""What a run may leave behind, and the proof that it did not.

Owns: the counting of tasks, descriptors, connections, gauges and memory before and after.
Does not know: what happened between.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import aiohttp

#: How long the last of it may take to go, seconds.
SETTLE_S = 30.0
GAUGES = ("gateway_streams_open", "gateway_upstream_running", "gateway_upstream_waiting")
_SAMPLE = re.compile(r"^(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class Connectable(Protocol):
    """An end that counts its connections."""

    @property
    def open_connections(self) -> int:
        """How many are open now."""


def sums(metrics: str) -> dict[str, float]:
    """The samples of /metrics, added up over their labels, by name."""
    found: dict[str, float] = {}
    for name, value in _SAMPLE.findall(metrics):
        found[name] = found.get(name, 0.0) + float(value)
    return found


async def gauges(base: str) -> dict[str, float]:
    """``GAUGES`` of the gateway at ``base``; its request leaves no connection."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{base}/metrics", headers={"Connection": "close"}) as response,
    ):
        found = sums(await response.text())
    return {name: found.get(name, 0.0) for name in GAUGES}


def descriptors(pid: int | str = "self") -> Counter[str]:
    """The open descriptors of a process by what they are: ``socket``, ``pipe``, a path."""
    kinds: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kinds[os.readlink(link).partition(":[")[0]] += 1
        except FileNotFoundError:
            continue  # the one that lists the folder, or one closed meanwhile
    return kinds


def peak_bytes(*, begin: bool = False) -> int:
    """The most memory that this process has had resident since ``begin``, bytes."""
    if begin:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _tasks() -> Counter[str]:
    return Counter(
        task.get_coro().__qualname__  # type: ignore[union-attr]
        for task in asyncio.all_tasks()
        if task is not asyncio.current_task()
    )


@asynccontextmanager
async def nothing_left(base: str, *ends: Connectable) -> AsyncIterator[None]:
    """The gateway at ``base``, which runs in this process, is left as it was found.

    Tasks, descriptors and the connections of ``ends`` come back to what they were at the start, and
    ``GAUGES`` to zero, within ``SETTLE_S``. Raises AssertionError with what is left.
    """
    tasks, files = _tasks(), descriptors()
    connections = [end.open_connections for end in ends]
    yield
    found: dict[str, object] = {}
    deadline = asyncio.get_running_loop().time() + SETTLE_S
    while asyncio.get_running_loop().time() < deadline:
        found = {
            "tasks": dict(_tasks() - tasks),
            "descriptors": dict(descriptors() - files),
            "connections": sum(
                max(0, end.open_connections - before)
                for end, before in zip(ends, connections, strict=True)
            ),
            "gauges": {name: value for name, value in (await gauges(base)).items() if value},
        }
        if not any(found.values()):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"left over after {SETTLE_S:g} s: {found}")
