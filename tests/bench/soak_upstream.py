"""Upstreams of both dialects that take their time, as a process of its own.

Run as ``python -m tests.bench.soak_upstream``; it prints its port. Answers come in pieces a few
milliseconds apart; a connection on which nothing is asked for a while is closed, so that none is
left when the asking is over.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

from tests.support.scripts import EVENTS, OBSERVATION, frames

#: Up to how long each piece of an answer takes, seconds.
PAUSE_S = 0.01
#: How long a connection is kept for the next request, seconds.
KEPT_S = 2.0


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _plain(value: object) -> list[bytes]:
    body = json.dumps(value).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return [head % len(body) + body]


STREAM = [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    *(_chunk(frames([event])) for event in EVENTS),
    b"0\r\n\r\n",
]
RESPONSES = _plain(EVENTS[-1]["responses"])
OBSERVED = _plain({"executionId": "remote-1", "observation": OBSERVATION})


class Slow(asyncio.Protocol):
    """Answers each request by its path, piece by piece."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held = b""
        self._pieces: list[bytes] = []
        self._timer = self._loop.call_later(KEPT_S, transport.close)

    def connection_lost(self, _: Exception | None) -> None:
        self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, found, body = self._held.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or b"0")
        if not found or len(body) < length:
            return
        self._held = body[length:]
        path = head.split(b" ", 2)[1]
        answer = STREAM if b"sse=true" in path else RESPONSES if b"sse=" in path else OBSERVED
        self._pieces = answer[::-1]
        self._timer.cancel()
        self._wait()

    def _wait(self) -> None:
        self._timer = self._loop.call_later(random.uniform(0, PAUSE_S), self._go_on)

    def _go_on(self) -> None:
        self._transport.write(self._pieces.pop())
        if self._pieces:
            self._wait()
        else:
            self._timer = self._loop.call_later(KEPT_S, self._transport.close)


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Slow, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1])
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
