"""The writing of one event stream.

Owns: its head, its events in their order, the pings where nothing else is written, the turns that
it leaves to others.
Does not know: where events come from, what they mean, what becomes of a stream that fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http import HttpVersion11, StreamWriter
from prometheus_client import Counter

from gateway.exchange import Exchange
from gateway.model import Event, Failed, Frames

#: A comment: readers of event streams skip it, and whatever stands between sees life.
PING: Final = b": ping\n\n"
#: A stream that is always ready to go on lets others have a turn after this many seconds.
_TURN_S: Final = 0.005


class EventStream:
    """One stream to one client. While it is entered, it gets a ping wherever nothing was written
    for ``heartbeat_s``; its head goes out with the first event or the first ping.

    Args:
        head: the head's fields.
        close: whether its end is its connection's.
        heartbeat_s: seconds.
        counter: counts the events written.
        clock: the running loop's time, seconds.
    """

    __slots__ = (
        "_clock",
        "_counter",
        "_exchange",
        "_heartbeat_s",
        "_loop",
        "_response",
        "_timer",
        "_writer",
        "_wrote_at",
        "opened",
        "told",
    )

    def __init__(
        self,
        exchange: Exchange,
        head: Mapping[str, str],
        *,
        close: bool,
        heartbeat_s: float,
        counter: Counter,
        clock: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        # Only this knows how to write without waiting, which is waited for in one place below.
        self._writer = cast("StreamWriter", exchange.request.writer)
        self._response = web.StreamResponse(headers=head)
        if close or exchange.request.version < HttpVersion11:
            # Without chunks only the connection's end says where the stream ends.
            self._response.force_close()
        self._heartbeat_s = heartbeat_s
        self._counter = counter
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._wrote_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        #: Whether the head is out, so that no other status can be given any more.
        self.opened = False
        #: Whether any event was given to be written.
        self.told = False

    def __enter__(self) -> EventStream:
        self._wrote_at = self._clock()
        self._timer = self._loop.call_at(self._wrote_at + self._heartbeat_s, self._beat)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def relay(self, events: AsyncIterator[Event], render: Callable[[Event], bytes]) -> None:
        """Write all ``events`` as they come, each as ``render`` has it."""
        exchange, clock = self._exchange, self._clock
        turn = clock()
        async for event in events:
            data = render(event)
            began = clock()
            await self.send(data)
            ended = self._wrote_at
            exchange.waited.client_s += ended - began
            if ended - turn > _TURN_S:
                # Neither side made this wait: let others have their turn.
                await asyncio.sleep(0)
                turn = clock()
            count = event.count if isinstance(event, Frames) else 1
            exchange.events += count
            self._counter.inc(count)
            if exchange.first_event_s is None and count and not isinstance(event, Failed):
                exchange.first_event_s = clock() - exchange.began

    async def send(self, data: bytes) -> None:
        """Write one event; returns once the client has room for the next."""
        self.told = True
        if not self.opened:
            self._open()
        await self._writer.write(data, drain=False)
        exchange = self._exchange
        exchange.response_bytes += len(data)
        if exchange.outlet.blocked:
            await exchange.outlet.room(exchange.request)
        self._wrote_at = self._clock()

    async def finish(self, *, close: bool) -> web.StreamResponse:
        """End the stream, and with ``close`` its connection, too. Returns once the client has it
        all."""
        self.__exit__(None, None, None)
        if close:
            self._response.force_close()
        if not self.opened:  # there was nothing to write
            self._open()
        await self._exchange.outlet.finish(self._exchange.request, self._response)
        return self._response

    def _open(self) -> None:
        self.opened = True
        self._exchange.status = 200
        _at_once(self._response.prepare(self._exchange.request))

    def _beat(self) -> None:
        """Ping, if it is time. One timer serves the stream: an event only moves the moment."""
        timer, outlet = self._timer, self._exchange.outlet
        if timer is None or not outlet.open:
            return
        at = self._wrote_at + self._heartbeat_s
        if at <= timer.when():
            # A client with much yet to take needs no sign of life, and has no room for one.
            if not outlet.blocked:
                if not self.opened:
                    self._open()
                _at_once(self._writer.write(PING, drain=False))
                self._exchange.response_bytes += len(PING)
            self._wrote_at = self._clock()
            at = self._wrote_at + self._heartbeat_s
        self._timer = self._loop.call_at(at, self._beat)


def _at_once(step: Coroutine[Any, Any, object]) -> None:
    """Run what has no reason to wait, from where nothing can."""
    try:
        step.send(None)
    except StopIteration:
        return
    step.close()
    raise RuntimeError("a write that should not wait has waited")
