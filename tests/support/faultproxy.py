"""A TCP proxy that breaks connections on purpose, between a gateway and a real upstream.

It forwards bytes of whatever protocol, so it stands before any kind of upstream. Faults act on what
the upstream sends: from a count of bytes or right after a mark in them on.

Owns: the faults, and the count of connections.
Does not know: what is spoken through it.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto

HOST = "127.0.0.1"
_PIECE_BYTES = 64 * 1024
_BACKLOG = 512


class Act(Enum):
    """What is done to a connection."""

    PASS = auto()
    #: A TCP RST, as of a machine that lost all memory of the connection.
    RESET = auto()
    #: Nothing comes any more, and what is sent vanishes; the connection stays.
    SWALLOW = auto()
    #: A FIN, while the other direction stays open.
    HALF_CLOSE = auto()
    #: One byte every ``interval_s`` seconds.
    DRIP = auto()


@dataclass(frozen=True, slots=True)
class Fault:
    """``act`` once ``after`` bytes of the upstream's have passed, or, where there is a ``mark``,
    once it has."""

    act: Act = Act.PASS
    after: int = 0
    mark: bytes = b""
    interval_s: float = 1.0


class _Connection:
    """One connection through the proxy; ``fault`` may be changed while it is open."""

    def __init__(self, near: socket.socket, fault: Fault) -> None:
        self.near = near
        self.far = socket.socket()
        self.far.setblocking(False)
        for end in (near, self.far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._swallowing = False
        self._tail = b""
        self.strike(fault)

    def strike(self, fault: Fault) -> None:
        """``fault`` from now on, counting from here."""
        self.fault = fault
        self._passed = 0

    async def run(self, target: int) -> None:
        """Forward both directions until one of them ends; then both connections end."""
        directions: list[asyncio.Task[None]] = []
        try:
            await asyncio.get_running_loop().sock_connect(self.far, (HOST, target))
            directions = [asyncio.create_task(self._up()), asyncio.create_task(self._down())]
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            _reset_at_close(self.near)
        except OSError:
            pass  # the upstream takes no connection: the gateway's own ends at once
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            self.near.close()
            self.far.close()

    async def _up(self) -> None:
        """Bytes of the gateway's, up to its FIN or RST."""
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self.near, _PIECE_BYTES):
            if not self._swallowing:
                await loop.sock_sendall(self.far, data)

    async def _down(self) -> None:
        """Bytes of the upstream's: those before the fault, then the fault. Ends where the
        connection must."""
        loop = asyncio.get_running_loop()
        rest = await self._before_the_fault()
        match self.fault.act:
            case Act.PASS:
                pass
            case Act.RESET:
                await _delivered(self.near)
                _reset_at_close(self.near)
            case Act.SWALLOW:
                self._swallowing = True
                while await loop.sock_recv(self.far, _PIECE_BYTES):
                    pass
                await asyncio.Event().wait()  # not even the upstream's end comes through
            case Act.HALF_CLOSE:
                self.near.shutdown(socket.SHUT_WR)
                await asyncio.Event().wait()
            case Act.DRIP:
                while rest := rest or await loop.sock_recv(self.far, _PIECE_BYTES):
                    await asyncio.sleep(self.fault.interval_s)
                    await loop.sock_sendall(self.near, rest[:1])
                    rest = rest[1:]

    async def _before_the_fault(self) -> bytes:
        """Forward up to the fault, or to the upstream's end; returns what had arrived beyond it."""
        loop = asyncio.get_running_loop()
        while (end := self._end(b"")) is None:
            data = await loop.sock_recv(self.far, _PIECE_BYTES)
            if not data:
                self.fault = Fault()
                return b""
            end = self._end(data)
            await loop.sock_sendall(self.near, data[:end])
            self._passed += len(data)
            if end is not None:
                return data[end:]
        return b""

    def _end(self, data: bytes) -> int | None:
        """How much of ``data`` passes before the fault; ``None``: all, and more may."""
        fault = self.fault
        if fault.act is Act.PASS:
            return None
        if not fault.mark:
            left = fault.after - self._passed
            return max(0, left) if left <= len(data) else None
        seen = self._tail + data
        found = seen.find(fault.mark)
        if found < 0:
            # A mark may come in pieces, too.
            self._tail = seen[len(seen) - min(len(seen), len(fault.mark) - 1) :]
            return None
        return found + len(fault.mark) - len(self._tail)


class FaultProxy:
    """Forwards to ``target`` (a port of the loopback).

    ``fault`` is what becomes of connections accepted from now on. ``accepted`` counts connections
    ever, ``open_connections`` those open now.
    """

    def __init__(self, target: int, fault: Fault) -> None:
        self.target = target
        self.fault = fault
        self.accepted = 0
        self._listener = socket.socket()
        self._listener.bind((HOST, 0))
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(set()))
        self._running: dict[_Connection, asyncio.Task[None]] = {}

    @property
    def url(self) -> str:
        """Its base URL for upstreams over HTTP."""
        return f"http://{HOST}:{self.port}"

    @property
    def grpc_url(self) -> str:
        """The same for those over gRPC."""
        return f"grpc://{HOST}:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._running)

    def strike(self, fault: Fault) -> None:
        """``fault`` for connections to come, and for those that are open, counting from here."""
        self.fault = fault
        for connection in self._running:
            connection.strike(fault)

    @asynccontextmanager
    async def not_accepting(self) -> AsyncIterator[None]:
        """Who connects meanwhile is left without an answer: the backlog is full."""
        await _cancelled(self._accepting)
        self._listener.listen(0)
        with contextlib.ExitStack() as stack:
            ports = set()
            for _ in range(4):  # a backlog of 0 holds one or two
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    waiting.connect(self._listener.getsockname())
                ports.add(waiting.getsockname()[1])
            try:
                yield
            finally:
                self._listener.listen(_BACKLOG)
                self._accepting = asyncio.create_task(self._accept(ports))

    async def reset_all(self) -> None:
        """Reset every connection that is open."""
        await _cancelled(*self._running.values())

    async def close(self) -> None:
        """Stop accepting, and reset what is open."""
        await _cancelled(self._accepting)
        self._listener.close()
        await self.reset_all()

    async def _accept(self, ignored: set[int]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            near, (_, port) = await loop.sock_accept(self._listener)
            if port in ignored:
                near.close()
                continue
            self.accepted += 1
            connection = _Connection(near, self.fault)
            self._running[connection] = asyncio.create_task(self._run(connection))

    async def _run(self, connection: _Connection) -> None:
        try:
            await connection.run(self.target)
        finally:
            del self._running[connection]


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _delivered(connection: socket.socket) -> None:
    """Wait until the peer's kernel has all that was sent, which a reset would throw away."""
    unsent = array.array("i", [1])
    while unsent[0]:
        fcntl.ioctl(connection, termios.TIOCOUTQ, unsent)
        await asyncio.sleep(0.005)


def _reset_at_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def fault_proxy(target: int, fault: Fault | None = None) -> AsyncIterator[FaultProxy]:
    """Run a proxy before port ``target`` on a free port of the loopback."""
    proxy = FaultProxy(target, fault or Fault())
    try:
        yield proxy
    finally:
        await proxy.close()
