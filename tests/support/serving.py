"""The gateway as a process of its own, its log read as it is written.

Owns: starting it, its signals, its end.
Does not know: what is configured.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.timing import patience, until

#: How the kernel writes the state of a connection that is open.
_ESTABLISHED = "01"
ROOT = Path(__file__).parent.parent.parent


#: See prctl(2): whoever has lost its parent becomes a child of this process.
_SET_CHILD_SUBREAPER = 36


def _as_in_a_container() -> None:
    # A shell lets what it starts in the background ignore them, and its children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Nobody else there takes over the children of those that are killed.
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Serving:
    """A process that serves at ``base``. ``log`` has its lines so far, each a JSON object."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.base = ""
        self.log: list[dict[str, Any]] = []
        self.errors = b""
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        out, err = self.process.stdout, self.process.stderr
        assert out is not None
        assert err is not None
        while line := await out.readline():
            async with self._news:
                self.log.append(json.loads(line))
                self._news.notify_all()
        self.errors = await err.read()
        async with self._news:
            self._news.notify_all()

    async def said(self, event: str, times: int = 1) -> dict[str, Any]:
        """The line of the log that says ``event`` for the so-manieth time, once it is there."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.log if line["event"] == event]

        async with patience(), self._news:
            await self._news.wait_for(lambda: len(found()) >= times or self._reading.done())
        assert len(found()) >= times, (event, self.log, self.errors)
        return found()[times - 1]

    def times(self, event: str) -> int:
        """How often the log has said ``event`` so far."""
        return sum(line["event"] == event for line in self.log)

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        code = await self.process.wait()
        await self._reading
        return code

    def children(self) -> set[int]:
        """The processes that it has started."""
        return children(self.process.pid)

    def connections(self, pid: int) -> int:
        """How many connections of clients the process ``pid`` has."""
        port = f":{int(self.base.rpartition(':')[2]):04X}"
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        sockets = {
            f"socket:[{inode}]"
            for _, local, _, state, _, _, _, _, _, inode, *_ in rows
            if local.endswith(port) and state == _ESTABLISHED
        }
        return sum(each in sockets for each in _links(Path(f"/proc/{pid}/fd")))


def _links(folder: Path) -> Iterator[str]:
    for each in folder.iterdir():
        try:
            yield os.readlink(each)
        except FileNotFoundError:
            continue  # closed meanwhile


def children(pid: int) -> set[int]:
    """The processes that ``pid`` has started, from its first thread."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(child) for child in listed.split()}


def family(pid: int) -> set[int]:
    """``pid``, its children, theirs, and so on."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return set(found)


async def gone(pids: set[int]) -> None:
    """Return once none of the processes is there any more."""
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


@asynccontextmanager
async def serving(config: Path, *arguments: str, **environment: str) -> AsyncIterator[Serving]:
    """``serve`` with the file ``config`` and more ``environment``; it is gone when the context is
    left."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", "--config", str(config), *arguments),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        preexec_fn=_as_in_a_container,
    )
    started = Serving(process)
    try:
        line = await started.said("listening")
        started.base = f"http://{line['host']}:{line['port']}"
        yield started
    finally:
        if process.returncode is None:
            process.kill()
        await started.ended()
