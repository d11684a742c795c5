"""Processes of the benchmark: started on a core of their own, known to listen, ended for certain.

Owns: cores, ports, starting, waiting, ending.
Does not know: what the programs are.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.tied import tied

ROOT = Path(__file__).parent.parent.parent
#: Seconds until a program must listen; LiteLLM takes its time.
READY_S = 120.0

# Keeps a program to some cores from its beginning, with all its threads: runs before it in the same
# process.
_PINNED = (
    "import os, sys\n"
    "os.sched_setaffinity(0, map(int, sys.argv[1].split(',')))\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the processes run on. With two, the load and the upstream share one."""

    load: int
    upstream: int
    proxy: int
    all: tuple[int, ...]

    @classmethod
    def here(cls) -> Cores:
        """Those that this process may use."""
        every = tuple(sorted(os.sched_getaffinity(0)))
        upstream = every[1] if len(every) > 2 else every[0]
        return cls(load=every[0], upstream=upstream, proxy=every[-1], all=every)


@dataclass(frozen=True, slots=True)
class Program:
    """A program that listens on ``port``."""

    pid: int
    port: int


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _list(cores: set[int]) -> str:
    return ",".join(map(str, sorted(cores)))


def spawn(
    command: Sequence[str | Path],
    cores: set[int],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    interactive: bool = False,
) -> subprocess.Popen[bytes]:
    """Start ``command`` on ``cores``; its output goes into the file ``log``.

    Args:
        interactive: standard input and output are pipes; only errors go into ``log``.
    """
    with log.open("wb") as output:
        return subprocess.Popen(
            tied([sys.executable, "-ISc", _PINNED, _list(cores), *map(str, command)]),
            stdin=subprocess.PIPE if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE if interactive else output,
            stderr=output if interactive else subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            start_new_session=True,
        )


async def listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until something accepts connections on ``port``.

    Raises:
        RuntimeError: the process ended, or did not listen in time; holds the end of its log.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_S
    while process.poll() is None and loop.time() < deadline:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise RuntimeError(f"{process.args!r} does not listen: {log.read_bytes()[-2000:]!r}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and see to it that it and all its children have."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@asynccontextmanager
async def running(
    command: Sequence[str | Path],
    port: int,
    cores: set[int],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Program]:
    """``command``, from when it listens on ``port`` until the context is left."""
    process = spawn(command, cores, log=log, environment=environment)
    try:
        await listens(process, port, log)
        yield Program(process.pid, port)
    finally:
        end(process)
