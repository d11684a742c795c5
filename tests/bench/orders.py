"""Processes that do as they are told: a command a line on standard input, as JSON, what comes of it
on standard output.

Owns: both ends of that.
Does not know: which commands there are.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

#: Seconds that anything may take.
OBEY_S = 180.0
_LINE_BYTES_MAX = 256 * 1024 * 1024

Obey = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Failed(Exception):
    """What was asked for cannot be had; the reason is told to who asked."""


async def heed(obey: Obey) -> None:
    """Do what is asked until standard input ends."""
    lines = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    while line := await lines.readline():
        try:
            told = await obey(json.loads(line))
        except (Failed, OSError) as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(told), flush=True)


class Ordered:
    """The other end: a process that heeds."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    async def do(self, what: str, **arguments: object) -> dict[str, Any]:
        """Ask it for ``what``, and wait for what comes of it.

        Raises:
            RuntimeError: it failed, or has ended.
        """
        order = json.dumps({"do": what, **arguments})
        async with asyncio.timeout(OBEY_S):
            line = await asyncio.to_thread(self._ask, order.encode())
        told: dict[str, Any] = json.loads(line or '{"error": "the process has ended"}')
        if "error" in told:
            raise RuntimeError(f"{what}: {told['error']}")
        return told

    def _ask(self, order: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order + b"\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()
