"""One child process of ``sandbox``: how it is started, what goes through its pipes, its end.

Owns: the child's command line and environment, the frames as the parent writes and reads them.
Does not know: how many children there are, who is asking, what an answer means.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import Final, cast

import msgspec

from gateway.sandbox_child import ANSWER, ARENA_BYTES, READY, Settings
from gateway.transform import Engine

_CHUNK_BYTES: Final = 64 * 1024
_FAILURE_BYTES_MAX: Final = 64 * 1024
# Inputs and results up to this size stay in the C library's heap of a child, free for the next.
_KEPT_BYTES: Final = 4 * 1024 * 1024
# The parent's module search path stands in for its environment and its site configuration.
_BOOT: Final = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from gateway.sandbox_child import main; main(sys.argv[1])"
)


async def spawn(settings: Settings) -> Child:
    """Start a child; ``Child.ready`` tells when it can be asked. Raises ``OSError``."""
    _, child = await asyncio.get_running_loop().subprocess_exec(
        lambda: Child(settings.bounds.output_bytes_max),
        *(sys.executable, "-I", "-S", "-B", "-c", _BOOT),
        msgspec.json.encode(settings),
        *_search_path(),
        stderr=None,
        cwd="/",
        env=_environment(settings.engine),
        # The terminal's Ctrl-C is the gateway's to handle.
        start_new_session=True,
    )
    return child


class Died(Exception):
    """The child ended before it answered."""


class DiedIdle(Died):
    """The child had ended before it was asked, which nobody had noticed yet."""


class Child(asyncio.SubprocessProtocol):
    """One child process: at most one question at a time."""

    def __init__(self, output_bytes_max: int) -> None:
        #: Set when the process has ended and been reaped, and its pipes are closed.
        self.gone = asyncio.Event()
        self.exit_status: int | None = None
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None
        self._answer_bytes_max = max(output_bytes_max, _FAILURE_BYTES_MAX)
        self._received = bytearray()
        self._writable = asyncio.Event()
        self._writable.set()

    def kill(self) -> None:
        """End the process at once; ``gone`` tells when."""
        if self._transport.get_returncode() is None and not self.gone.is_set():
            # Not the transport's own kill: that may reap the process behind the watcher's back.
            # The watcher may have reaped it already, and be about to say so.
            with suppress(ProcessLookupError):
                os.kill(self._transport.get_pid(), signal.SIGKILL)

    async def ready(self) -> None:
        """Wait for the child's first sign. Raises ``Died``."""
        kind, _ = await self._next_answer(b"", b"")
        if kind != READY:
            raise Died

    async def ask(self, question: bytes, text: bytes) -> tuple[bytes, bytes]:
        """Send a question; the answer's kind and payload. Raises ``Died``, ``DiedIdle``."""
        return await self._next_answer(question, text)

    async def _next_answer(self, question: bytes, text: bytes) -> tuple[bytes, bytes]:
        if self.gone.is_set():
            raise DiedIdle
        answer: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._answer = answer
        try:
            await self._send(question, text)
            return await answer
        finally:
            self._answer = None

    async def _send(self, question: bytes, text: bytes) -> None:
        """Write piece by piece, so that a large input neither stops the loop nor is copied."""
        stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
        stdin.write(question)
        if stdin.is_closing():
            raise DiedIdle
        view = memoryview(text)
        for start in range(0, len(view), _CHUNK_BYTES):
            await self._writable.wait()
            if self._answer is None or self._answer.done() or stdin.is_closing():
                return
            stdin.write(view[start : start + _CHUNK_BYTES])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.SubprocessProtocol``: the process runs."""
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """See ``asyncio.SubprocessProtocol``: a piece of an answer."""
        del fd  # only standard output is piped
        received = self._received
        received += data
        if len(received) < ANSWER.size:
            return
        kind, size = ANSWER.unpack_from(received)
        if size > self._answer_bytes_max or len(received) > ANSWER.size + size:
            self.kill()
        elif len(received) == ANSWER.size + size:
            payload = bytes(memoryview(received)[ANSWER.size :])
            self._received = bytearray()
            if self._answer is not None and not self._answer.done():
                self._answer.set_result((kind, payload))
            # Whoever is still writing learns that nobody reads any more.
            self._writable.set()

    def pause_writing(self) -> None:
        """See ``asyncio.BaseProtocol``: the child reads more slowly than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See ``asyncio.BaseProtocol``: it has caught up."""
        self._writable.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """See ``asyncio.SubprocessProtocol``: whoever is writing may stop."""
        del fd, exc  # what it means, the exit status tells
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.BaseProtocol``: the process has ended and been reaped."""
        del exc
        self.exit_status = self._transport.get_returncode()
        self._transport.close()
        self._writable.set()
        self.gone.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Died())


def _environment(engine: Engine) -> dict[str, str]:
    """All that a child sees of the environment: nothing of the gateway's own.

    The settings are those of the two allocators, so that what an evaluation has let go of is there
    for the next one: taken back by the system each time, its pages cost half as much again as the
    evaluation. jsonatapy's gets one arena of ``ARENA_BYTES`` and no other: left to itself it
    reserves a gibibyte of address space at its start and then serves every request from that,
    below any limit on address space.
    """
    environment = {
        "MIMALLOC_ARENA_RESERVE": "0",
        "MALLOC_MMAP_THRESHOLD_": str(_KEPT_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES),
    }
    if engine == "jsonatapy":
        environment["MIMALLOC_RESERVE_OS_MEMORY"] = str(ARENA_BYTES)
        environment["MIMALLOC_PURGE_DELAY"] = "-1"  # never: the arena is small
    if (libraries := os.environ.get("LD_LIBRARY_PATH")) is not None:
        environment["LD_LIBRARY_PATH"] = libraries
    return environment


def _search_path() -> list[str]:
    return [os.path.abspath(entry) for entry in sys.path]
