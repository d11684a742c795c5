"""The writing of one event stream.

Owns: its head, its events in their order, the pings where nothing else is written, the turns that
it leaves to others.
Does not know: where events come from, what they mean, what becomes of a stream that fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Final

from gateway.alarms import Alarm, Alarms
from gateway.exchange import Exchange
from gateway.model import Event, Failed, Frames
from gateway.outlet import Written
from gateway.tallies import Count, Level

#: A comment: readers of event streams skip it, and whatever stands between sees life.
PING: Final = b": ping\n\n"
#: A stream that is always ready to go on lets others have a turn after this many seconds.
_TURN_S: Final = 0.005
#: What lies so close is now: a loop may fire its timers by whole milliseconds.
_CLOCK_S: Final = 0.002


class EventStream:
    """One stream to one client. While it is entered, it gets a ping wherever nothing was written
    for ``heartbeat_s``; its head goes out with the first event or the first ping.

    Args:
        fields: the head's lines.
        heartbeat_s: seconds.
        counter: counts the events written.
        level: counts the streams that are entered.
        alarms: tell when a ping is due.
        clock: the running loop's time, seconds.
    """

    __slots__ = (
        "_alarm",
        "_alarms",
        "_bytes",
        "_clock",
        "_counter",
        "_events",
        "_exchange",
        "_fields",
        "_heartbeat_s",
        "_level",
        "_outlet",
        "_wrote_at",
        "opened",
        "told",
    )

    def __init__(
        self,
        exchange: Exchange,
        fields: str,
        *,
        heartbeat_s: float,
        counter: Count,
        level: Level,
        alarms: Alarms,
        clock: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self._outlet = exchange.outlet
        self._fields = fields
        self._heartbeat_s = heartbeat_s
        self._counter = counter
        self._level = level
        self._alarms = alarms
        self._clock = clock
        self._wrote_at = 0.0
        #: What was written, which its exchange is told at the end.
        self._bytes = self._events = 0
        self._alarm: Alarm | None = None
        #: Whether the head is out, so that no other status can be given any more.
        self.opened = False
        #: Whether any event was given to be written.
        self.told = False

    def __enter__(self) -> EventStream:
        self._level.value += 1
        self._wrote_at = self._clock()
        self._alarm = self._alarms.set(self._wrote_at + self._heartbeat_s, self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._level.value -= 1
        self._exchange.events += self._events
        self._exchange.response_bytes += self._bytes
        self.stop()

    def stop(self) -> None:
        """Ping no more."""
        if self._alarm is not None:
            self._alarms.stop(self._alarm)
            self._alarm = None

    async def relay(self, events: AsyncIterator[Event], render: Callable[[Event], bytes]) -> None:
        """Write all ``events`` as they come, each as ``render`` has it."""
        exchange, clock = self._exchange, self._clock
        turn = clock()
        async for event in events:
            count = event.count if isinstance(event, Frames) else 1
            data = render(event)
            began = clock()
            if isinstance(event, Failed):
                await self.send(data)
            else:
                await self.send(data, count)
            ended = self._wrote_at
            exchange.waited.client_s += ended - began
            if ended - turn > _TURN_S:
                # Neither side made this wait: let others have their turn.
                await asyncio.sleep(0)
                turn = clock()

    async def send(self, data: bytes, count: int = 0) -> None:
        """Write ``data``, which is ``count`` events; returns once the client has room for more.

        The event that tells of a failure is none that was asked for, and counts as 0.
        """
        self.push(data, count)
        if self._outlet.blocked:
            await self._outlet.room()
            self._wrote_at = self._clock()

    def push(self, data: bytes, count: int) -> float:
        """As ``send``, without waiting: whoever calls sees to it that there is room. Returns when
        it was written, loop time."""
        self.told = True
        if not self.opened:
            self._open()
        self._outlet.piece(data)
        self._bytes += len(data)
        self._wrote_at = now = self._clock()
        if count:
            if not self._events:
                self._exchange.first_event_s = now - self._exchange.began
            self._events += count
            self._counter.value += count
        return now

    async def finish(self) -> Written:
        """End the stream. Returns once the client has it all."""
        self.stop()
        if not self.opened:  # there was nothing to write
            self._open()
        outlet = self._outlet
        outlet.end()
        await outlet.flushed()
        return outlet.written

    def _open(self) -> None:
        self.opened = True
        self._exchange.status = 200
        self._outlet.begin(200, self._fields)

    def wake(self) -> None:
        """See ``Sleeper``: ping, if it is time. One alarm serves the stream: an event only moves
        the moment."""
        outlet = self._outlet
        if self._alarm is None or not outlet.open:
            return
        at = self._wrote_at + self._heartbeat_s
        if at <= self._clock() + _CLOCK_S:
            # A client with much yet to take needs no sign of life, and has no room for one.
            if not outlet.blocked:
                if not self.opened:
                    self._open()
                outlet.piece(PING)
                self._bytes += len(PING)
            self._wrote_at = self._clock()
            at = self._wrote_at + self._heartbeat_s
        self._alarm = self._alarms.set(at, self)
