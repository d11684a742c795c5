"""The load generator: a process of its own that sends prebuilt requests and checks every answer.

Run as ``python -m tests.bench.load``. It heeds:

- ``connect``: ``port``, ``requests`` (as Latin-1), ``count``: so many connections, which share out
  the requests among them, are opened, and have had their first answer. Gives ``samples``, the
  different bodies of those.
- ``calls``: ``seconds``; calls one after the other on every connection. Gives ``calls``,
  ``events``, ``seconds`` and ``latencies_us`` [median, 99th percentile, longest].
- ``hang up``: drops those connections.
- ``open``: ``port``, ``request``, ``count``; opens so many streams more, and answers when each has
  its first event.
- ``mark``: gives ``events``, ``bytes``, ``streams`` (those still open) and ``latencies_us`` since
  the last mark.
- ``close``: drops all streams.

Owns: the connections, and what counts as a wrong answer: another status than 200, another length
or number of events than that of the first answer to the same request.
Does not know: what is measured.
"""

from __future__ import annotations

import asyncio
from itertools import cycle
from time import monotonic_ns
from typing import Any, TypeVar, cast

import httptools
import uvloop

from tests.bench.answers import STAMP, STAMP_DIGITS
from tests.bench.orders import Failed, heed

P = TypeVar("P", bound=asyncio.Protocol)

_EVENT = b"data: "
#: Connections that are being opened at one time.
_OPENING = 64


class WrongAnswer(Failed):
    """An answer that is not as it should be."""


def spread(values: list[int]) -> list[float]:
    """Median, 99th percentile and greatest of nanoseconds, in microseconds; [] for none."""
    if not values:
        return []
    values.sort()
    middle, high = values[len(values) // 2], values[len(values) * 99 // 100]
    return [each / 1000 for each in (middle, high, values[-1])]


class Connection(asyncio.Protocol):
    """One connection, and the answer that comes over it: its head, then ``on_body`` with what each
    chunk brings, and ``on_message_complete``, as httptools calls them."""

    def __init__(self, group: Group, request: bytes) -> None:
        self._group = group
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self.first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its type
        self._transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(WrongAnswer(f"the connection was closed: {error}"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            told = error.__context__ if isinstance(error.__context__, WrongAnswer) else error
            self.fail(WrongAnswer(f"{told}: {data[:300]!r}"))
            self._transport.abort()

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        if self._parser.get_status_code() != 200:
            raise WrongAnswer(f"status {self._parser.get_status_code()}")

    def fail(self, error: WrongAnswer) -> None:
        """Tell whoever waits."""
        if not self.first.done():
            self.first.set_exception(error)

    def close(self) -> None:
        """Drop the connection."""
        self.first.cancel()
        self._transport.abort()


class Caller(Connection):
    """One connection, on which one call follows the other while ``group.running``."""

    def __init__(self, group: Group, request: bytes) -> None:
        super().__init__(group, request)
        self._idle: asyncio.Future[None] | None = None
        self._kept: list[bytes] | None = []
        self._expected: tuple[int, int] | None = None
        self._size = self._events = self._began = 0
        self._tail = b""

    def go(self) -> asyncio.Future[None]:
        """Begin to call; done when the call that runs at the end is."""
        self._idle = asyncio.get_running_loop().create_future()
        self._send()
        return self._idle

    def _send(self) -> None:
        self._began = monotonic_ns()
        self._transport.write(self._request)

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._size += len(body)
        if self._kept is not None:
            self._kept.append(body)
        if self._tail:
            joined = self._tail + body
            self._events += joined.count(_EVENT) - self._tail.count(_EVENT)
        else:
            self._events += body.count(_EVENT)
        self._tail = body[-len(_EVENT) :]

    def on_message_complete(self) -> None:
        """Called by the parser."""
        got = (self._size, self._events)
        self._size = self._events = 0
        self._tail = b""
        if self._kept is not None:
            self._expected = got
            self.first.set_result(b"".join(self._kept))
            self._kept = None
            return
        if got != self._expected:
            raise WrongAnswer(f"{got} (bytes, events), and before it was {self._expected}")
        group = self._group
        group.calls += 1
        group.events += got[1]
        group.latencies.append(monotonic_ns() - self._began)
        if group.running:
            self._send()
        elif self._idle is not None:
            self._idle.set_result(None)

    def fail(self, error: WrongAnswer) -> None:
        """Tell whoever waits."""
        super().fail(error)
        if self._idle is not None and not self._idle.done():
            self._idle.set_exception(error)


class Listener(Connection):
    """One stream: counts its events, and how long each was on its way."""

    def __init__(self, group: Group, request: bytes) -> None:
        super().__init__(group, request)
        self._tail = b""
        self._now = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._group.streams += 1

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._group.streams -= 1

    def data_received(self, data: bytes) -> None:
        self._now = monotonic_ns()
        self._group.bytes += len(data)
        super().data_received(data)

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if not self.first.done():
            self.first.set_result(body)
        if self._tail:
            body, self._tail = self._tail + body, b""
        group = self._group
        for each in body.split(STAMP)[1:]:
            if len(each) < STAMP_DIGITS:  # cut in the middle of the time
                self._tail = STAMP + each
                return
            group.events += 1
            group.latencies.append(self._now - int(each[:STAMP_DIGITS]))


class Group:
    """All connections, and what has come over them."""

    def __init__(self) -> None:
        self.members: list[Caller] = []
        self.listeners: list[Listener] = []
        self.running = False
        self.streams = 0
        self.reset()

    def reset(self) -> None:
        """Count anew."""
        self.calls = self.events = self.bytes = 0
        self.latencies: list[int] = []

    async def connect(self, port: int, requests: list[str], count: int) -> dict[str, Any]:
        """See the module."""
        found: set[str] = set()
        for _, each in zip(range(count), cycle(requests), strict=False):
            caller = await self._opened(port, Caller(self, each.encode("latin-1")))
            self.members.append(caller)
        for caller in self.members:
            found.add((await caller.first).decode("latin-1"))
        return {"samples": sorted(found)}

    async def _opened(self, port: int, protocol: P) -> P:
        await asyncio.get_running_loop().create_connection(lambda: protocol, "127.0.0.1", port)
        return protocol

    async def calls_for(self, seconds: float) -> dict[str, Any]:
        """See the module."""
        self.reset()
        self.running = True
        began = monotonic_ns()
        asyncio.get_running_loop().call_later(seconds, setattr, self, "running", False)
        await asyncio.gather(*(caller.go() for caller in self.members))
        return {
            "calls": self.calls,
            "events": self.events,
            "seconds": (monotonic_ns() - began) / 1e9,
            "latencies_us": spread(self.latencies),
        }

    async def open(self, port: int, request: str, count: int) -> dict[str, Any]:
        """See the module."""
        room = asyncio.Semaphore(_OPENING)

        async def opened() -> None:
            async with room:
                listener = Listener(self, request.encode("latin-1"))
                self.listeners.append(await self._opened(port, listener))
                await listener.first

        await asyncio.gather(*(opened() for _ in range(count)))
        self.reset()
        return {}

    def mark(self) -> dict[str, Any]:
        """See the module."""
        told = {
            "events": self.events,
            "bytes": self.bytes,
            "streams": self.streams,
            "latencies_us": spread(self.latencies),
        }
        self.reset()
        return told

    async def hang_up(self) -> dict[str, Any]:
        """See the module."""
        for each in self.members:
            each.close()
        self.members = []
        return {}

    async def close(self) -> dict[str, Any]:
        """See the module."""
        for each in self.listeners:
            each.close()
        self.listeners = []
        while self.streams:
            await asyncio.sleep(0.01)
        return {}

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """What ``command`` gives."""
        match command:
            case {"do": "connect", "port": port, "requests": requests, "count": count}:
                return await self.connect(port, requests, count)
            case {"do": "calls", "seconds": seconds}:
                return await self.calls_for(seconds)
            case {"do": "hang up"}:
                return await self.hang_up()
            case {"do": "open", "port": port, "request": request, "count": count}:
                return await self.open(port, request, count)
            case {"do": "mark"}:
                return self.mark()
            case {"do": "close"}:
                return await self.close()
        raise Failed(f"there is no {command}")


if __name__ == "__main__":
    group = Group()
    uvloop.run(heed(group.obey))
