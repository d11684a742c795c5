"""Being told by Redis that something has happened: one connection for all who wait in a process.

What is told is only a hint to look. Where the connection is down nobody is told anything, and who
waits has to look by itself now and then.

Owns: that connection, what is listened to on it and for how long.
Does not know: what is told.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from redis.asyncio.connection import Connection

from gateway.executions.redis_wire import ANSWER_S, BROKEN, Wire

#: After so long without a word the connection is asked whether it lives, seconds.
_QUIET_S: Final = 5.0
#: How long to wait before a connection that broke is made again.
_AGAIN_S: Final = 0.25
#: A channel is listened to for so long after the last who waited there: it often comes back.
_LINGER_S: Final = 5.0


class Channel:
    """What is told under one name, for all who wait for it here."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        #: Whether all that is told is heard from now on.
        self.heard = False
        #: Counts what was heard, and beginnings and ends of hearing.
        self.changes = 0
        #: What was told last, since it is heard; whoever finds out otherwise may put it here.
        self.last: bytes | None = None
        self.users = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def change(self, *, heard: bool, last: bytes | None) -> None:
        """Have all who wait look."""
        self.heard, self.last = heard, last
        self.changes += 1
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def changed(self, since: int, wait_s: float) -> None:
        """Return when there are more ``changes`` than ``since``, after ``wait_s`` at the latest."""
        if self.changes != since or wait_s <= 0:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            async with asyncio.timeout(wait_s):
                await waiting
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(waiting)


class News:
    """The channels that are listened to in this process. Nothing is connected before the first."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._channels: dict[bytes, Channel] = {}
        self._connection: Connection | None = None
        self._listening: asyncio.Task[None] | None = None
        self._saying: set[asyncio.Task[None]] = set()

    def join(self, name: str) -> Channel:
        """Begin to listen. To be left again."""
        channel = self._channels.get(name.encode())
        if channel is None:
            channel = Channel(name.encode())
            self._channels[channel.name] = channel
            if self._listening is None:
                self._listening = asyncio.create_task(self._listen())
            elif self._connection is not None:
                self._say(self._connection, b"SUBSCRIBE", channel.name)
        channel.users += 1
        return channel

    def leave(self, channel: Channel) -> None:
        """Wait there no more."""
        channel.users -= 1
        if not channel.users:
            asyncio.get_running_loop().call_later(_LINGER_S, self._forget, channel)

    def _forget(self, channel: Channel) -> None:
        if not channel.users and self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            if self._connection is not None:
                self._say(self._connection, b"UNSUBSCRIBE", channel.name)

    def _say(self, connection: Connection, *words: bytes) -> None:
        """Write something; the answer comes among what is told."""
        saying = asyncio.create_task(self._said(connection, *words))
        self._saying.add(saying)
        saying.add_done_callback(self._saying.discard)

    async def _said(self, connection: Connection, *words: bytes) -> None:
        with suppress(*BROKEN):  # whoever reads there notices too
            await connection.send_command(*words, check_health=False)

    async def _listen(self) -> None:
        while True:
            connection = self._wire.connection()
            try:
                async with asyncio.timeout(ANSWER_S):
                    await connection.connect()  # type: ignore[no-untyped-call]
                self._connection = connection
                if self._channels:
                    await connection.send_command(b"SUBSCRIBE", *self._channels, check_health=False)
                await self._hear(connection)
            except BROKEN:
                pass  # who waits looks by itself
            finally:
                self._connection = None
                for channel in list(self._channels.values()):
                    channel.change(heard=False, last=None)
                with suppress(*BROKEN):
                    await connection.disconnect(nowait=True)
            await asyncio.sleep(_AGAIN_S)

    async def _hear(self, connection: Connection) -> None:
        asked = False
        while True:
            told = await connection.read_response(timeout=_QUIET_S, disconnect_on_error=False)
            if told is None:
                if asked:
                    raise TimeoutError
                asked = True
                await connection.send_command(b"PING", check_health=False)
            else:
                asked = False
                self._take(told)

    def _take(self, told: list[Any]) -> None:
        kind, name = told[0], told[1]
        channel = self._channels.get(name)
        if channel is None:
            return
        if kind == b"message":
            channel.change(heard=True, last=told[2])
        elif kind == b"subscribe":
            channel.change(heard=True, last=None)

    async def close(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
