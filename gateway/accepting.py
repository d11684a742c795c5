"""One listening socket for several workers, and which of them takes a connection.

The supervisor binds the socket and every worker inherits it, so that they share one queue: what a
worker has not accepted is accepted by another, also while it starts, drains, hangs or dies. With a
socket for each of them (SO_REUSEPORT) the kernel would deal connections out to queues of their own,
where they are lost with their worker, or wait for it while others are idle; and a second gateway
could be started on the same port unnoticed.

Left to itself, a shared queue is emptied by whoever happens to run: of 64 connections at once, one
of two workers took all in half of the runs. So each worker says in memory that they share how many
connections it has, and one with more than its share leaves what comes to the others for a moment.
Then 64 connections came to 33 and 31, which is better than what the kernel deals out; it costs
nothing for as long as a connection lasts.

Owns: the binding, the shared counts, who accepts and when.
Does not know: what is spoken on a connection.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway import logs
from gateway.errors import ConfigError
from gateway.sections import ServerConfig

#: Connections that may wait to be accepted.
BACKLOG: Final = 1024
#: The count of a worker that accepts none.
_AWAY: Final = -1
_COUNT_BYTES: Final = 8
#: How long connections are left to workers that have fewer, seconds; and how many are taken where
#: nobody else took them in that time.
_YIELD_S: Final = 0.002
_TAKEN_THEN: Final = 4
#: How long none are accepted where the system has no means for more, seconds.
_PAUSE_S: Final = 1.0
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def cannot_listen(host: str, port: int, error: OSError, key: str = "") -> ConfigError:
    """The error where an address cannot be listened on; ``key``: where it is configured."""
    where = f" ({key})" if key else ""
    return ConfigError([f"cannot listen on {host}:{port}{where}: {error.strerror or error}"])


async def bound(host: str, port: int, key: str = "") -> list[socket.socket]:
    """Listening sockets for every address that ``host`` stands for; ``key``: where it is
    configured. Raises ConfigError."""
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
        try:
            sockets = [each.dup() for each in server.sockets]
        finally:
            server.close()
        for each in sockets:
            each.setblocking(False)
            each.listen(BACKLOG)
    except OSError as error:
        raise cannot_listen(host, port, error, key) from error
    return sockets


@dataclass(frozen=True, slots=True)
class Bound:
    """Listening sockets: for clients, and where there is such a port, for watching."""

    clients: list[socket.socket]
    admin: list[socket.socket]

    @classmethod
    async def of(cls, server: ServerConfig) -> Bound:
        """All that ``server`` asks for. Raises ConfigError."""
        made = cls(await bound(server.host, server.port), [])
        if server.admin is not None:
            try:
                made.admin.extend(await bound(server.admin.host, server.admin.port, "server.admin"))
            except BaseException:
                made.close()
                raise
        return made

    @property
    def address(self) -> tuple[str, int]:
        """Where clients come to."""
        host, port = self.clients[0].getsockname()[:2]
        return host, port

    @property
    def admin_address(self) -> tuple[str, int] | None:
        """Where it is watched."""
        if not self.admin:
            return None
        host, port = self.admin[0].getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Accept nothing more here."""
        for each in (*self.clients, *self.admin):
            each.close()


class Shares:
    """How many connections each worker has, in memory that they share. A count is written by its
    worker alone; one that is read a moment late does no harm.

    ``descriptor`` is the memory, made by ``create``.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, 0)
        self._counts = memoryview(self._memory).cast("q")

    @classmethod
    def create(cls, workers: int) -> Shares:
        """For so many workers, none of which accepts yet. Linux only."""
        descriptor = os.memfd_create("gateway-shares")
        os.ftruncate(descriptor, workers * _COUNT_BYTES)
        shares = cls(descriptor)
        for place in range(workers):
            shares.leave(place)
        return shares

    def close(self) -> None:
        """Let go of the memory here; others may still use it."""
        self._counts.release()
        self._memory.close()
        os.close(self.descriptor)

    def put(self, place: int, count: int) -> None:
        """The worker at ``place`` accepts, and has ``count`` connections."""
        self._counts[place] = count

    def leave(self, place: int) -> None:
        """The worker at ``place`` accepts none."""
        self._counts[place] = _AWAY

    def exceeded(self, place: int) -> bool:
        """Whether the worker at ``place`` has more than its share."""
        return exceeds(self._counts[place], [count for count in self._counts if count != _AWAY])


def exceeds(own: int, counts: Sequence[int]) -> bool:
    """Whether ``own`` connections are so many more than the least of ``counts`` that others should
    take the next: of few, any one more."""
    least = min(counts, default=own)
    return own > least + least // 8


class Acceptor:
    """Accepts what comes on ``sockets``, as far as it is the turn of the worker at ``place``.

    Args:
        protocol: makes the protocol of one connection; ``closed`` is to be called at its end.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        shares: Shares,
        place: int,
        protocol: Callable[[], asyncio.Protocol],
    ) -> None:
        self._sockets = sockets
        self._shares = shares
        self._place = place
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._open = False
        self._opening: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Accept from now on."""
        self._open = True
        self._shares.put(self._place, self._count)
        for each in self._sockets:
            self._watch(each)

    async def shut(self) -> None:
        """Accept nothing more. What has been accepted gets to its protocol first."""
        if not self._open:
            return
        self._open = False
        self._shares.leave(self._place)
        for each in self._sockets:
            self._loop.remove_reader(each)
            each.close()
        if self._opening:
            await asyncio.wait(self._opening)

    def closed(self) -> None:
        """A connection has ended."""
        self._count -= 1
        if self._open:
            self._shares.put(self._place, self._count)

    def _watch(self, each: socket.socket) -> None:
        if self._open:
            self._loop.add_reader(each, self._arrived, each)

    def _arrived(self, each: socket.socket) -> None:
        if self._shares.exceeded(self._place):
            self._loop.remove_reader(each)
            self._loop.call_later(_YIELD_S, self._take_what_is_left, each)
        else:
            # One at a time: meanwhile another may have fewer.
            self._accept(each)

    def _take_what_is_left(self, each: socket.socket) -> None:
        if self._open:
            self._watch(each)
            for _ in range(_TAKEN_THEN):
                if not self._accept(each):
                    return

    def _accept(self, each: socket.socket) -> bool:
        """Accept one connection; whether there was one."""
        try:
            connection, _ = each.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another was faster, or the client has gone
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            fields = {"error": error.strerror, "pause_s": _PAUSE_S}
            logs.events.error("no connection can be accepted", extra={"fields": fields})
            self._loop.remove_reader(each)
            self._loop.call_later(_PAUSE_S, self._watch, each)
            return False
        connection.setblocking(False)
        self._count += 1
        self._shares.put(self._place, self._count)
        task = self._loop.create_task(self._connect(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            # The client has gone before there was a protocol to tell.
            connection.close()
            self.closed()
