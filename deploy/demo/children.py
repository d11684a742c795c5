"""The demo's child processes: started, watched, and ended together.

Owns: their logs, noticing that one died, and that none outlives the demo.
Does not know: what they are or serve.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.tied import tied

STOP_S: Final = 12.0
LOG_TAIL_LINES: Final = 20


class ChildFailedError(Exception):
    """A child ended by itself, or was not ready in time. The message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running program whose output goes to ``log``."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raises ChildFailedError if it has ended."""
        status = self.process.poll()
        if status is not None:
            raise ChildFailedError(f"{self.name} ended with status {status}. {self.tail()}")

    def tail(self) -> str:
        """The last lines of its log, with where that is."""
        lines = self.log.read_text("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
        if not lines:
            return f"Its log, {self.log}, is empty."
        return "\n".join([f"Its log, {self.log}, ends with:", *(f"  {line}" for line in lines)])

    def wait_until_answering(self, url: str, limit_s: float) -> None:
        """Wait until a GET of ``url`` answers 200.

        Raises:
            ChildFailedError: it ended, or did not answer 200 within ``limit_s`` seconds.
        """
        deadline = time.monotonic() + limit_s
        while (seen := _get_status(url)) != 200:
            self.check()
            if time.monotonic() > deadline:
                said = "nothing" if seen is None else f"status {seen}"
                raise ChildFailedError(
                    f"{self.name} answered {said} at {url} for {limit_s:g} s. {self.tail()}"
                )
            time.sleep(0.05)

    def kill(self) -> None:
        """End it and whatever it started at once, without a word."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_S)

    def stop(self) -> None:
        """End it and whatever it started. A second call does nothing."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):  # then the kill below ends it
                self.process.wait(STOP_S)
        # The process leads a group of its own; nobody of it is left after a stop in order.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_S)


def start_child(
    name: str,
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start ``command`` in a process group of its own, tied to the life of this process.

    ``environment`` is added to this process's own. ``command[0]`` is the program's path.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            tied(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            start_new_session=True,
        )
    return Child(name, process, log)


def _get_status(url: str) -> int | None:
    """The status of a GET, ``None`` where nobody answers."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=5)
    try:
        connection.request("GET", f"/{path}")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None  # not listening yet; the caller asks again
    finally:
        connection.close()
