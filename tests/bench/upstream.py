"""An upstream that costs next to nothing: canned answers straight from a protocol.

Run as ``python -m tests.bench.upstream PORT``. The name of the pipeline says what is answered:

- ``obs-N``, as executeSync: an observation of N entities; as a query: responses of that length
- ``burst-N``, streamed: N events as fast as they go, each a chunk of its own
- ``paced``, streamed: an event every ``EVERY_S``, each with the time at which it was sent, until
  the connection is closed; those of all streams spread evenly over that time
- ``idle``, streamed: one event, and then nothing
- anything else: a chat completion, as for LiteLLM

Owns: framing and pacing.
Does not know: who asks.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from socket import socket
from typing import cast

import uvloop

from tests.bench import answers

#: Seconds between two paced events of one stream.
EVERY_S = 0.05
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    """``data`` as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _plain(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


@cache
def _canned(name: bytes, executed: bool) -> bytes:
    """The whole answer for the pipeline ``name``."""
    kind, _, count = name.partition(b"-")
    if kind == b"obs":
        make = answers.execution if executed else answers.responses
        return _plain(make(int(count)))
    if kind == b"burst":
        frames = [chunk(answers.piece(f"word {each % 1000:03}")) for each in range(int(count) - 1)]
        return b"".join([_STREAM_HEAD, *frames, chunk(answers.last_event("word")), b"0\r\n\r\n"])
    return _plain(answers.completion())


class Pacer(threading.Thread):
    """Sends the paced events of all streams, each at its time, from a thread that does little else:
    an event loop would send those that are due in the same millisecond together."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.streams: list[socket] = []
        self._gone: list[socket] = []
        frame = chunk(answers.piece("word ~" + "0" * answers.STAMP_DIGITS))
        self._before, self._after = frame.split(b"0" * answers.STAMP_DIGITS)

    def run(self) -> None:
        """Until the process ends."""
        turn, due = 0, time.monotonic()
        while True:
            while self._gone:
                self._gone.pop().close()
            streams = self.streams
            due += EVERY_S / max(1, len(streams))
            left = due - time.monotonic()
            if left > 0:
                time.sleep(left)
            elif left < -EVERY_S:
                due = time.monotonic()  # held up for so long that nobody is to catch up with it
            if streams:
                turn = (turn + 1) % len(streams)
                # One that is full, or gone by now, misses an event.
                with suppress(OSError):
                    streams[turn].send(
                        b"%b%016d%b" % (self._before, time.monotonic_ns(), self._after)
                    )

    def add(self, stream: socket) -> None:
        """Send to ``stream``, which is this thread's own, from now on."""
        self.streams = [*self.streams, stream]

    def drop(self, stream: socket) -> None:
        """Send to it no longer. It is closed between two sends, never during one: the next to be
        opened would get its number."""
        self.streams = [each for each in self.streams if each is not stream]
        self._gone.append(stream)


class Instant(asyncio.Protocol):
    """Answers each request by the name of its pipeline, and keeps nothing of its body."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._held = b""
        self._head: bytes | None = None
        self._left = 0
        self._stream: socket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its type

    def connection_lost(self, _: Exception | None) -> None:
        if self._stream is not None:
            self._pacer.drop(self._stream)

    def data_received(self, data: bytes) -> None:
        self._held = self._held + data if self._held else data
        while self._held:
            if self._head is None:
                head, found, rest = self._held.partition(b"\r\n\r\n")
                if not found:
                    return
                self._head, self._held, self._left = head, rest, _length(head)
            if not self._skip():
                return
            head, self._head = self._head, None
            self._answer(head)

    def _skip(self) -> bool:
        """Let go of what there is of the body; whether it was all."""
        if self._left < 0:  # in chunks
            end = self._held.find(b"0\r\n\r\n")
            self._held = self._held[end + 5 :] if end >= 0 else self._held[-4:]
            return end >= 0
        if len(self._held) < self._left:
            self._left -= len(self._held)
            self._held = b""
            return False
        self._held = self._held[self._left :]
        return True

    def _answer(self, head: bytes) -> None:
        path = head[: head.find(b"\r\n")].split(b" ")[1]
        name = path.partition(b"/pipelines/")[2].partition(b"/")[0]
        if name not in (b"idle", b"paced"):
            self._transport.write(_canned(name, path.endswith(b"/executeSync")))
            return
        self._transport.write(_STREAM_HEAD + chunk(answers.piece("word")))
        if name == b"paced":
            self._stream = self._transport.get_extra_info("socket").dup()
            assert self._stream is not None
            self._pacer.add(self._stream)


def _length(head: bytes) -> int:
    """How long a request's body is; -1 where it comes in chunks."""
    head = head.lower()
    if b"transfer-encoding: chunked" in head:
        return -1
    return int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or b"0")


async def main() -> None:
    """Serve until killed."""
    pacer = Pacer()
    pacer.start()
    server = await asyncio.get_running_loop().create_server(
        lambda: Instant(pacer), "127.0.0.1", int(sys.argv[1]), backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
