"""A streamed run whose one upstream pushes its events: each is written where it was read.

Between the two connections there is no task, no queue and no wait: what a read of the upstream's
connection holds is rendered and written to the client's, in one piece, before the read is over.

Owns: the way of pushed events to the stream; the holding back of the upstream while the client has
no room, and whose time that is.
Does not know: what the events mean, what becomes of a stream that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gateway.errors import GatewayError
from gateway.eventstream import EventStream
from gateway.exchange import Exchange
from gateway.model import Event, Frames
from gateway.pipeline import Run
from gateway.sse import encode_all
from gateway.upstreams.base import Pushing, Source

_BEFORE_BYTES_MAX: Final = 4096


class Relay:
    """The way of one run's events to its caller. ``render`` gives an event's SSE frames."""

    __slots__ = (
        "_before",
        "_busy_s",
        "_client",
        "_clock",
        "_dialect",
        "_exchange",
        "_frames",
        "_held_since",
        "_render",
        "_run",
        "_source",
        "_stream",
    )

    def __init__(
        self,
        run: Run,
        exchange: Exchange,
        stream: EventStream,
        *,
        render: Callable[[Event], bytes],
        clock: Callable[[], float],
    ) -> None:
        self._run = run
        self._exchange = exchange
        self._client = exchange.outlet.client
        self._stream = stream
        self._dialect = exchange.dialect
        self._render = render
        self._clock = clock
        self._source: Source | None = None
        #: Since when the client is waited for; ``None``: it is not.
        self._held_since: float | None = None
        #: Frames that wait for an event.
        self._before = b""
        #: The last that were written; the run asks for them only where something else comes of it.
        self._frames = b""
        #: Seconds that were spent on the events themselves, while the upstream was waited for.
        self._busy_s = 0.0

    async def run(self, upstream: Pushing) -> None:
        """Run it to its end. Raises GatewayError; where anything had been written before, the event
        that says so to the caller, too, has been."""
        run, stream, render = self._run, self._stream, self._render
        waited, clock = self._exchange.waited, self._clock
        asked, others_s = clock(), waited.client_s
        try:
            try:
                guard, call, deadlines = await run.asked(self._dialect)
                await guard.relay(upstream, call, deadlines, self)
            finally:
                run.over()
                run.frames = self._frames
                self._go_on()
                others_s = waited.client_s - others_s + self._busy_s
                waited.upstream_s += max(0.0, clock() - asked - others_s)
                self._exchange.outlet.release()
            for event in await run.ending(self._dialect):
                await stream.send(render(event), 1)
        except GatewayError as error:
            if stream.told:
                await stream.send(render(run.failed(error)))
            raise
        finally:
            run.mapper.done()
        failure = run.reported_failure()
        if failure is not None:
            if not run.told:  # the route's transform dropped the event that told of it
                await stream.send(render(run.failed(failure)))
            raise failure

    def begin(self, source: Source) -> None:
        """See ``Receiver``."""
        self._source = source
        self._before = b""

    def frames(self, data: bytes, count: int, now: float) -> None:
        """See ``Receiver``. What came without an event, such as an ID, is passed on with the next;
        comments alone are not."""
        if not count:
            lines = data.splitlines()
            says = any(line and not line.startswith(b":") for line in lines)
            if says and len(self._before) + len(data) <= _BEFORE_BYTES_MAX:
                self._before += data
            return
        if self._before:
            data, self._before = self._before + data, b""
        self._frames = data
        self._busy_s += self._stream.push(data, count) - now
        if self._client.blocked:
            self._hold()

    def texts(self, texts: Sequence[bytes], now: float) -> None:
        """See ``Receiver``. Events before one that fails are still written."""
        if not texts:
            return
        pieces: list[bytes] = []
        try:
            self._run.mapper.event_texts(texts, pieces)
        finally:
            push = self._stream.push
            ended = push(encode_all(pieces), len(pieces)) if pieces else self._clock()
            self._busy_s += ended - now
            if self._client.blocked:
                self._hold()

    def feed(self, events: Iterable[Event], now: float) -> None:
        """See ``Receiver``. Events before one that fails are still written."""
        self._run.frames = self._frames
        take, render, dialect = self._run.take, self._render, self._dialect
        pieces: list[bytes] = []
        try:
            for event in events:
                if isinstance(event, Frames):  # signs of life: others come to ``frames``
                    continue
                pieces.extend(map(render, take(event, dialect)))
        finally:
            push = self._stream.push
            ended = push(b"".join(pieces), len(pieces)) if pieces else self._clock()
            self._busy_s += ended - now
            if self._client.blocked:
                self._hold()

    def _hold(self) -> None:
        """The client has no room, and is waited for."""
        if self._held_since is not None:
            return
        self._held_since = self._clock()
        if self._source is not None:
            self._source.pause()
        self._exchange.outlet.when_free(self._go_on)

    def _go_on(self) -> None:
        """The client has room, or is waited for no more."""
        if self._held_since is not None:
            self._exchange.waited.client_s += self._clock() - self._held_since
            self._held_since = None
            if self._source is not None:
                self._source.resume()
