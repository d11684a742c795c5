"""Calls that are cancelled in the very moment in which their connection is made, in the loop that a
process serves in: asyncio's own tells of that otherwise."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway import loops
from gateway.upstreams.connection import Connection
from gateway.upstreams.outgoing import Origin
from gateway.upstreams.pool import Pool
from tests.support.remote import Peer, Seen, remote
from tests.support.timing import patience, until


class Fickle(Pool):
    """Whoever connects changes his mind once it is done, before he knows."""

    calling: asyncio.Task[Any]

    def opened(self, connection: Connection) -> None:
        super().opened(connection)
        asyncio.get_running_loop().call_soon(self.calling.cancel)


def test_a_connection_that_nobody_wants_any_more_when_it_is_made_is_not_waited_for_at_the_end() -> (
    None
):
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.answer(b"{}")

    async def run() -> None:
        async with remote(script) as far, patience():
            pool = Fickle(Origin(far.url))
            for _ in range(3):
                pool.calling = asyncio.create_task(pool.connect())
                with pytest.raises(asyncio.CancelledError):
                    await pool.calling
            await until(lambda: not far.open_connections)
            async with asyncio.timeout(10):
                await pool.close()

    loops.run(run())
