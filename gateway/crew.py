"""A worker as its supervisor sees it.

Owns: how the process is started, what it inherits, its end, and that of the children it leaves.
Does not know: when a worker is started, or what is said to it and what follows from its answers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final

import msgspec

from gateway import logs
from gateway.accepting import Bound, Shares
from gateway.errors import GatewayError
from gateway.link import FromWorker, Given, Link, Message, of_supervisor

#: How long a worker may take to end once it has closed its end of the link, and how long what it
#: said last may take to be read once it has ended: seconds.
_LINGER_S: Final = 5.0
_LAST_S: Final = 1.0
# The same packages from the same places, whatever lies in the folder that it is started in.
_BOOT: Final = (
    "import sys; sys.path[:] = sys.argv[2:]; from gateway.worker import main; main(sys.argv[1])"
)


class Worker:
    """A process that was started. ``ident`` is its own for ever, ``place`` that of those whose
    place it takes, from 0. Made by ``start``."""

    def __init__(
        self, ident: int, place: int, process: asyncio.subprocess.Process, link: Link[FromWorker]
    ) -> None:
        self.ident = ident
        self.place = place
        self.pid = process.pid
        #: When it began to serve, loop time; ``None``: it does not yet.
        self.since: float | None = None
        #: Why it cannot start, where it said so.
        self.failure: GatewayError | None = None
        self._process = process
        self._link = link

    @classmethod
    async def start(
        cls,
        ident: int,
        place: int,
        sockets: Bound,
        shares: Shares,
        given: Given,
    ) -> Worker:
        """Start a process that accepts on ``sockets`` and serves what is ``given``.

        Raises OSError."""
        own, its = socket.socketpair()
        with its:
            settings: dict[str, Any] = {
                "place": place,
                "link": its.fileno(),
                "shares": shares.descriptor,
                "sockets": [each.fileno() for each in sockets.clients],
                "admin": [each.fileno() for each in sockets.admin],
            }
            inherited = (
                settings["link"], settings["shares"], *settings["sockets"], *settings["admin"],
            )  # fmt: skip
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", _BOOT),
                    msgspec.json.encode(settings),
                    *_search_path(),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=inherited,
                    # The terminal's Ctrl-C is the supervisor's to handle.
                    start_new_session=True,
                )
            except BaseException:
                own.close()
                raise
        worker = cls(ident, place, process, await of_supervisor(own))
        worker.send(given)
        return worker

    def send(self, message: Message) -> None:
        """Send it, without waiting."""
        self._link.send(message)

    async def ended(self, heard: Callable[[FromWorker], None]) -> int:
        """Hand on each message to ``heard``; the process's exit status once it has ended, that of
        ``subprocess``."""
        reading = asyncio.create_task(self._read(heard))
        exiting = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait((reading, exiting), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((exiting,), timeout=_LINGER_S)
            if not exiting.done():
                self.kill()
            status = await exiting
            await asyncio.wait((reading,), timeout=_LAST_S)
        finally:
            for task in (reading, exiting):
                task.cancel()
            await asyncio.wait((reading, exiting))
            await self._link.close()
        return status

    async def _read(self, heard: Callable[[FromWorker], None]) -> None:
        try:
            while (message := await self._link.receive()) is not None:
                heard(message)
        except Exception:  # noqa: BLE001  whatever one says, the others are to serve on
            logs.events.exception("what a worker said cannot be read; it is ended")
            self.kill()

    def kill(self) -> None:
        """End the process at once."""
        # It may have ended, and been seen to, this moment.
        with suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.kill(self.pid, signal.SIGKILL)

    def log(self, event: str, **fields: object) -> None:
        """Say of it what ``event`` and ``fields`` do."""
        about = {"worker": self.place + 1, "pid": self.pid}
        logs.events.info(event, extra={"fields": about | fields})


def bury(workers: Collection[int]) -> None:
    """Let the system forget the children of this process that have ended, but for ``workers``,
    process IDs, which are waited for elsewhere.

    They are those of workers that were killed, where nobody else takes them over: as a container's
    first process this one would collect them until there is room for no more processes."""
    # A worker that has ended hides what has ended after it, until it has been waited for.
    with suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in workers:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


def _search_path() -> list[str]:
    return [os.path.abspath(entry) for entry in sys.path]


def status_text(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:  # a number without a name
        return f"signal {-status}"
