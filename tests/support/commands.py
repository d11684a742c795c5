"""The command line as a process of its own, in a pipe or on a terminal.

Owns: starting it, its streams, its end.
Does not know: what any command does.
"""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.serving import ROOT


def command(*arguments: str) -> list[str]:
    """What starts the command line with ``arguments``."""
    return [sys.executable, "-m", "gateway", *arguments]


def environment(**more: str) -> dict[str, str]:
    """This process's own, with ``more``."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **more}


async def start(*arguments: str, **env: str) -> Process:
    """A command that is there to be interrupted."""

    def heed_interrupts() -> None:
        # A shell lets what it starts in the background ignore them, and its children inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return await asyncio.create_subprocess_exec(
        *command(*arguments),
        stdout=PIPE,
        stderr=PIPE,
        env=environment(**env),
        preexec_fn=heed_interrupts,
    )


async def run(*arguments: str, **env: str) -> tuple[int | None, str, str]:
    """Run a command to its end; returns exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments), stdout=PIPE, stderr=PIPE, env=environment(**env)
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def ended(process: Process) -> AsyncIterator[Process]:
    """``process``, which is gone when the context is left."""
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def on_terminal(*arguments: str) -> tuple[int | None, str]:
    """Run a command on a terminal of 60 × 20; returns its exit code and all it showed."""
    controller, terminal = pty.openpty()
    loop = asyncio.get_running_loop()
    shown = bytearray()
    closed = asyncio.Event()

    def read() -> None:
        try:
            shown.extend(os.read(controller, 65536))
        except OSError:  # the other side was closed: how a terminal ends
            loop.remove_reader(controller)
            closed.set()

    loop.add_reader(controller, read)
    try:
        started = await asyncio.create_subprocess_exec(
            *command(*arguments), stdout=terminal, stderr=terminal,
            env=environment(COLUMNS="60", LINES="20"),
        )  # fmt: skip
        os.close(terminal)
        async with ended(started) as process:
            code = await process.wait()
        await closed.wait()
    finally:
        os.close(controller)
    return code, shown.decode()
