"""One attempt of a call on an upstream: its limits, and what it says of the upstream.

Owns: what an attempt that answers, fails or is given up tells breaker, health, latency and metrics,
and when; the limits of its events, pulled or pushed.
Does not know: whether there is a turn for it, whether another follows it (``guard``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import time
from typing import Final, Protocol

from gateway.admission import Admission, Refused
from gateway.alarms import Alarms
from gateway.breaker import Breaker, State, Turn
from gateway.deadlines import Deadlines, Watch
from gateway.errors import GatewayError, Outcome, UpstreamFailed, UpstreamTimeout
from gateway.latency import Latency
from gateway.metrics import Metrics
from gateway.model import Event, Frames, LayerFinished, RawEvent, is_content
from gateway.tallies import Count, Level
from gateway.tracing import Span
from gateway.upstreams.base import Source, Upstream

#: The turn of an attempt that has told how it went.
_SPENT: Final = Turn(-1, probe=False)
#: An upstream that has answered well need not be said to have so once more within this time.
_TOLD_S: Final = 1.0
#: Ends that say of an attempt without content only how long it went without.
_GIVEN_UP: Final = (Outcome.CLIENT_GONE, Outcome.SUPERSEDED, Outcome.TIMEOUT)

#: Counted from 0: of a series that begins with the first one, a rate does not see that.
_EXPECTED: Final = (Outcome.COMPLETE, Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT)


@dataclass(slots=True)
class Fate:
    """Why a call that is closed early was given up; set by who closes it, before."""

    outcome: Outcome = Outcome.CLIENT_GONE


class Attended(Protocol):
    """The upstream that is called, with all that is known of it. ``clock``: seconds."""

    name: str
    clock: Callable[[], float]
    alarms: Alarms
    breaker: Breaker
    admission: Admission
    latency: Latency
    measures: Measures

    def saw(self, error: GatewayError | None) -> None:
        """Note what the upstream answered, or how it failed."""

    def show_breaker(self, error: BaseException | None) -> None:
        """Show the breaker's state; ``error``: what may have changed it."""


class Measures:
    """The metrics of one upstream, their labels looked up once."""

    def __init__(self, metrics: Metrics, upstream: Upstream) -> None:
        labels = (upstream.name, upstream.kind)
        self._metrics = metrics
        self._labels = labels
        self.waiting = metrics.upstream_waiting.labels(*labels)
        self.running = metrics.upstream_running.labels(*labels)
        self.retries = metrics.upstream_retries.labels(*labels)
        self.duration = metrics.upstream_duration.labels(*labels)
        self.first_event = metrics.upstream_first_event.labels(*labels)
        #: Set at every turn, changed or not: until the last call of a replaced upstream of the same
        #: name has ended, that one writes here too.
        self.breaker = metrics.upstream_breaker.labels(*labels)
        self.breaker.set(State.CLOSED)
        for reason in Refused:  # at 0, for rates to see the first
            metrics.upstream_refused.labels(*labels, reason)
        self._ended: dict[Outcome, Count] = {
            outcome: metrics.upstream_requests.labels(*labels, outcome) for outcome in _EXPECTED
        }
        # Else only what has happened gets a series of its own.
        self._up: Level | None = None

    def ended(self, outcome: Outcome) -> None:
        """An attempt ended."""
        counter = self._ended.get(outcome)
        if counter is None:
            counter = self._metrics.upstream_requests.labels(*self._labels, outcome)
            self._ended[outcome] = counter
        counter.value += 1

    def refused(self, reason: Refused) -> None:
        """A call was not made."""
        self._metrics.upstream_refused.labels(*self._labels, reason).inc()

    def tell_up(self, status: bool | None) -> None:
        """The series is gone: begin it anew with ``status``, or with the next answer."""
        self._up = None
        if status is not None:
            self.up(status)

    def up(self, good: bool) -> None:
        """The upstream answered, or failed."""
        if self._up is None:
            self._up = self._metrics.upstream_up.labels(*self._labels)
        self._up.value = good

    def mark_first(self, span: Span, first_event_s: float) -> None:
        """The first event of an attempt that is traced came."""
        span.note("first event")
        span.attributes["gateway.first_event_s"] = round(first_event_s, 6)
        self.first_event.mark(first_event_s, span.trace_id, span.span_id, time())

    def mark(
        self, span: Span, outcome: Outcome, error: BaseException | None, duration_s: float
    ) -> None:
        """An attempt that is traced ended."""
        self.duration.mark(duration_s, span.trace_id, span.span_id, time())
        span.told(outcome, error.code if isinstance(error, GatewayError) else None)
        span.end()


class Attempt:
    """One attempt of a call: its limits, and what it says of the upstream.

    It begins when it is made, in its slot, and is over, its work upstream closed, at the end of its
    ``with`` block.
    """

    __slots__ = ("_began", "_fate", "_guard", "_told_at", "_turn", "mute", "span", "watch")

    def __init__(
        self, guard: Attended, turn: Turn, deadlines: Deadlines, first_by: float, fate: Fate
    ) -> None:
        self._guard = guard
        self._turn = turn
        self._fate = fate
        self._began = guard.clock()
        #: When it was last told of the upstream that it answers well.
        self._told_at = float("-inf")
        #: Where it is traced: set before it begins.
        self.span: Span | None = None
        #: No content has come yet.
        self.mute = True
        self.watch = Watch(guard.name, deadlines, guard.clock, guard.alarms, first_by)
        guard.measures.running.value += 1
        if turn.probe:
            guard.show_breaker(None)

    def heard(self, event: Event) -> None:
        """An event came, and no content yet. Any sign shows that the upstream lives, but only an
        event is one; and how quick it is, only content tells: a run's beginning is soon told."""
        guard = self._guard
        now = guard.clock()
        if self.watch.silent and not (isinstance(event, Frames) and event.count == 0):
            self.watch.silent = False
            guard.measures.first_event.observe(now - self._began)
            if self.span is not None:
                guard.measures.mark_first(self.span, now - self._began)
            probe = self._turn.probe
            self._turn = guard.breaker.answered(self._turn, now)
            if probe:
                guard.show_breaker(None)
            guard.saw(None)
            self._told_at = now
        if is_content(event):
            self.mute = False
            guard.latency.note(now - self._began, now)

    async def events(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """``events`` as they come, each waited for no longer than the limits allow.

        What may follow the last layer's end is no longer waited for in earnest: its lateness is no
        failure. Raises UpstreamTimeout.
        """
        watch, step = self.watch, events.__anext__
        complete = False
        while True:
            if not complete:
                watch.begin()
            try:
                event = await step()
            except StopAsyncIteration:
                return
            except asyncio.CancelledError as error:
                if watch.ran_out():
                    raise watch.timeout() from error
                raise
            finally:
                watch.end()
            if self.mute:
                self.heard(event)
            complete |= isinstance(event, LayerFinished) and event.last
            yield event

    def __enter__(self) -> None:
        """Nothing is left to do."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        guard, now = self._guard, self._guard.clock()
        self.watch.close()
        if error is None:
            outcome = Outcome.COMPLETE
            if self.watch.silent:
                self._good(now)
            if now - self._told_at > _TOLD_S:
                guard.saw(None)
        elif isinstance(error, GatewayError):
            outcome = error.outcome
            self._failed(error, now)
        else:
            outcome = Outcome.INTERNAL if isinstance(error, Exception) else self._fate.outcome
        if self.mute and outcome in _GIVEN_UP:
            guard.latency.note_at_least(now - self._began, now)
        if self._turn.probe:
            guard.breaker.gave_back(self._turn, now)
        guard.show_breaker(error)
        measures = guard.measures
        measures.ended(outcome)
        measures.duration.observe(now - self._began)
        if self.span is not None:
            measures.mark(self.span, outcome, error, now - self._began)
        measures.running.value -= 1
        guard.admission.leave()

    def _failed(self, error: GatewayError, now: float) -> None:
        guard = self._guard
        if isinstance(error, UpstreamFailed) and error.alive:
            if self.watch.silent:
                self._good(now)
            guard.saw(error)
        elif isinstance(error, UpstreamTimeout) and not self._patient(now):
            pass  # the upstream answers as it does everybody; this caller would not wait for it
        elif isinstance(error, UpstreamFailed | UpstreamTimeout) and self.watch.blames:
            guard.breaker.failed(self._turn, now)
            self._turn = _SPENT
            guard.saw(error)

    def _patient(self, now: float) -> bool:
        """Whether it was given as long as the upstream has taken of late, where that is known."""
        usual_s = self._guard.latency.p95_s()
        return not self.mute or usual_s is None or now - self._began >= usual_s

    def _good(self, now: float) -> None:
        self._turn = self._guard.breaker.answered(self._turn, now)


class Receiver(Protocol):
    """Takes pushed events that an attempt has heard. It must not wait. ``now``: when they were
    read, loop time."""

    def begin(self, source: Source) -> None:
        """Events will come from ``source``."""
        ...

    def frames(self, data: bytes, count: int, now: float) -> None:
        """See ``Sink``."""
        ...

    def texts(self, texts: Sequence[bytes], now: float) -> None:
        """See ``Sink``."""
        ...

    def feed(self, events: Iterable[Event], now: float) -> None:
        """See ``Sink``."""
        ...


class Watched:
    """A sink whose events one attempt hears first, and whose source stops its limits."""

    __slots__ = (
        "_attempt", "_clock", "_complete", "_held", "_mute", "_receiver", "_source", "_watch",
    )  # fmt: skip

    def __init__(self, attempt: Attempt, clock: Callable[[], float], receiver: Receiver) -> None:
        self._attempt = attempt
        self._watch = attempt.watch
        self._clock = clock
        self._receiver = receiver
        self._source: Source | None = None
        self._held = False
        self._complete = False
        #: No content has come yet, as the attempt has it.
        self._mute = True

    def begin(self, source: Source) -> None:
        """See ``Sink``."""
        self._source = source
        self._receiver.begin(self)

    def complete(self) -> None:
        """See ``Sink``."""
        self._complete = True
        self._watch.hold()

    def frames(self, data: bytes, count: int) -> None:
        """See ``Sink``."""
        self._watch.heard_at = now = self._clock()
        if self._mute:
            self._hear(Frames(data, count))
        self._receiver.frames(data, count, now)

    def texts(self, texts: Sequence[bytes]) -> None:
        """See ``Sink``."""
        self._watch.heard_at = now = self._clock()
        if self._mute and texts:
            # Which of them is content, a transform may decide; that one came is what counts here.
            self._hear(RawEvent(texts[0]))
        self._receiver.texts(texts, now)

    def feed(self, events: Iterable[Event]) -> None:
        """See ``Sink``."""
        self._watch.heard_at = now = self._clock()
        self._receiver.feed(self._heard(events) if self._mute else events, now)

    def _heard(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            if self._mute:
                self._hear(event)
            yield event

    def _hear(self, event: Event) -> None:
        """One that is no content yet, or the first that is: another limit may count from here."""
        self._attempt.heard(event)
        self._mute = self._attempt.mute
        if not (self._held or self._complete):
            self._watch.go_on()

    def pause(self) -> None:
        """See ``Source``."""
        self._held = True
        self._watch.hold()
        if self._source is not None:
            self._source.pause()

    def resume(self) -> None:
        """See ``Source``."""
        self._held = False
        if not self._complete:
            self._watch.go_on()
        if self._source is not None:
            self._source.resume()
