"""Which of several workers takes a connection that comes to the socket they share."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.accepting import Acceptor, Shares, bound, exceeds
from gateway.errors import ConfigError
from tests.support.timing import every_time, until


@pytest.mark.parametrize(
    ("own", "counts", "exceeded"),
    [
        (0, [0], False),
        (5, [5], False),
        (1, [1, 0], True),
        (2, [2, 1], True),
        (9, [9, 8], False),
        (10, [10, 8], True),
        # Of many, a few more make no difference.
        (899, [899, 800], False),
        (901, [901, 800], True),
        (3, [3, 3, 9], False),
        (3, [], False),
    ],
)
def test_a_worker_leaves_a_connection_to_who_has_clearly_fewer(
    own: int, counts: list[int], exceeded: bool
) -> None:
    assert exceeds(own, counts) == exceeded


def test_workers_see_each_others_counts_and_not_of_those_that_are_away() -> None:
    ours = Shares.create(3)
    theirs = Shares(os.dup(ours.descriptor))
    ours.put(0, 7)
    assert not theirs.exceeded(0)
    theirs.put(2, 1)
    assert ours.exceeded(0)
    theirs.leave(2)
    assert not ours.exceeded(0)
    # One that has none yet takes the next.
    theirs.put(1, 0)
    assert ours.exceeded(0)
    assert not ours.exceeded(1)


class Connection(asyncio.Protocol):
    """A connection that tells its acceptor of its end."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._worker.transports.append(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.acceptor.closed()


class Worker:
    """One of those that accept."""

    def __init__(self, sockets: list[socket.socket], shares: Shares, place: int) -> None:
        self.shares, self.place = shares, place
        self.transports: list[asyncio.BaseTransport] = []
        self.acceptor = Acceptor(sockets, shares, place, lambda: Connection(self))


@asynccontextmanager
async def workers(number: int) -> AsyncIterator[tuple[list[Worker], int]]:
    """So many that share one socket, and its port; all in this loop, which is fair to them."""
    sockets = await bound("127.0.0.1", 0)
    shares = Shares.create(number)
    made = [Worker([each.dup() for each in sockets], shares, place) for place in range(number)]
    port = sockets[0].getsockname()[1]
    for each in sockets:
        each.close()
    try:
        yield made, port
    finally:
        for worker in made:
            await worker.acceptor.shut()
            for transport in worker.transports:
                transport.close()


async def connect(port: int, number: int, clients: list[asyncio.StreamWriter]) -> None:
    for _, writer in await asyncio.gather(
        *(asyncio.open_connection("127.0.0.1", port) for _ in range(number))
    ):
        clients.append(writer)


@every_time
async def test_connections_are_shared_out_evenly_and_none_is_left_waiting() -> None:
    clients: list[asyncio.StreamWriter] = []
    async with workers(3) as (made, port):
        for worker in made:
            worker.acceptor.start()
        await connect(port, 60, clients)
        await until(lambda: sum(len(worker.transports) for worker in made) == 60)
        counts = [len(worker.transports) for worker in made]
        assert max(counts) - min(counts) <= 6
        # Who has lost connections gets the next ones.
        for transport in made[0].transports:
            transport.close()
        await asyncio.sleep(0.05)
        before = len(made[0].transports)
        await connect(port, 10, clients)
        await until(lambda: sum(len(worker.transports) for worker in made) == 70)
        assert len(made[0].transports) - before >= 5
        for client in clients:
            client.close()


async def test_where_the_others_do_not_take_them_one_takes_them_all() -> None:
    clients: list[asyncio.StreamWriter] = []
    async with workers(2) as (made, port):
        busy, idle = made
        busy.acceptor.start()
        # It says that it accepts, and does not come to it.
        idle.shares.put(idle.place, 0)
        await connect(port, 20, clients)
        await until(lambda: len(busy.transports) == 20)
        for client in clients:
            client.close()


async def test_what_was_accepted_gets_to_its_protocol_and_what_comes_then_to_the_others() -> None:
    clients: list[asyncio.StreamWriter] = []
    async with workers(2) as (made, port):
        leaving, staying = made
        leaving.acceptor.start()
        await connect(port, 3, clients)
        await leaving.acceptor.shut()
        await leaving.acceptor.shut()  # once more does nothing
        taken = len(leaving.transports)
        staying.acceptor.start()
        await connect(port, 3, clients)
        await until(lambda: len(leaving.transports) + len(staying.transports) == 6)
        assert len(leaving.transports) == taken
        for client in clients:
            client.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_port_that_is_taken_is_a_mistake_in_the_configuration() -> None:
    (taken,) = await bound("127.0.0.1", 0)
    port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
        await bound("127.0.0.1", port)
    taken.close()


def test_no_memory_is_left_behind() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    shares = Shares.create(2)
    shares.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
