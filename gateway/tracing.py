"""Spans: what of a request is traced, and the parts that each is made of.

A span here is a plain object of a few fields that costs a few microseconds; what OTLP makes of it
is made where spans are sent. A request that is not sampled has none at all.

Owns: which requests are sampled, spans with their IDs and times, how a failure is told in one, the
headers that carry a trace on.
Does not know: where spans are sent, what HTTP or an upstream is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import IntEnum
from random import Random
from time import monotonic, monotonic_ns, time_ns
from typing import Final, Self, TypeAlias

from multidict import CIMultiDictProxy, istr

from gateway.errors import STATUS, Code, GatewayError, Outcome
from gateway.tracing_context import PARENT, STATE, Context, parsed, passed_on, written

Value: TypeAlias = str | bool | int | float
Headers: TypeAlias = CIMultiDictProxy[str]

#: In a spelling that headers are found by without being changed first.
_PARENT: Final = istr(PARENT)
_STATE: Final = istr(STATE)
_LOW_BITS: Final = 2**64 - 1
_NO_HEADERS: Final[Mapping[str, str]] = {}
#: Ends of which somebody is to learn who looks for what went wrong.
_FAULTS: Final = (Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT, Outcome.INTERNAL)


class Kind(IntEnum):
    """What a span is to those before and after it, as OTLP numbers that."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    CONSUMER = 5


class Span:
    """A piece of work that is traced: made when it begins, sent on by ``end``.

    ``attributes`` may be added to until then. ``began_ns`` and ``ended_ns``: Unix time. ``events``:
    their names and times. ``fault``: why the span's status is an error; ``None``: it is not.
    """

    __slots__ = (
        "_sink", "_wall_ns", "attributes", "began_ns", "ended_ns", "events", "fault", "kind",
        "link", "name", "parent_id", "remote", "span_id", "state", "trace_id", "within",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        kind: Kind,
        *,
        trace_id: str,
        parent_id: str,
        state: str,
        wall_ns: int,
        sink: Callable[[Span], None],
        attributes: dict[str, Value],
    ) -> None:
        self.name = name
        self.kind = kind
        self.trace_id = trace_id
        self.span_id = _new_span_id()
        self.parent_id = parent_id
        self.state = state
        self.attributes = attributes
        self.events: list[tuple[str, int]] | None = None
        self.link: Context | None = None
        #: What ends with it, at the latest.
        self.within: list[Evaluations] | None = None
        #: Whether its parent is somebody else's.
        self.remote = bool(parent_id) and kind is Kind.SERVER
        self.fault: str | None = None
        self._sink = sink
        # One offset for a whole trace: a clock that is set must not turn its spans around.
        self._wall_ns = wall_ns
        self.began_ns = monotonic_ns() + wall_ns
        self.ended_ns = 0

    def child(self, name: str, kind: Kind, attributes: dict[str, Value]) -> Span:
        """A part of this one, which begins now."""
        return Span(
            name,
            kind,
            trace_id=self.trace_id,
            parent_id=self.span_id,
            state=self.state,
            wall_ns=self._wall_ns,
            sink=self._sink,
            attributes=attributes,
        )

    def evaluations(self, part: Span) -> Evaluations:
        """Those whose span is ``part``, one of this one's; they end with this one."""
        if self.within is None:
            self.within = []
        made = Evaluations(part, monotonic)
        self.within.append(made)
        return made

    def note(self, event: str) -> None:
        """Something of that name happened now."""
        if self.events is None:
            self.events = []
        self.events.append((event, monotonic_ns() + self._wall_ns))

    def end(self, *, after_ns: int | None = None) -> None:
        """It is over, now or ``after_ns`` its beginning. Only the first time counts."""
        if self.ended_ns:
            return
        for evaluations in self.within or ():
            evaluations.end()
        now_ns = monotonic_ns() + self._wall_ns
        self.ended_ns = now_ns if after_ns is None else self.began_ns + after_ns
        self._sink(self)

    def end_with(self, error: BaseException | None) -> None:
        """It is over because of ``error``; ``None``: well."""
        if isinstance(error, GatewayError):
            self.told(error.outcome, error.code)
        elif error is None:
            self.told(Outcome.COMPLETE, None)
        elif isinstance(error, Exception) and not isinstance(error, ConnectionError):
            self.told(Outcome.INTERNAL, Code.INTERNAL)
        else:  # closed or cancelled from outside, by whoever has no more use for it
            self.attributes["gateway.outcome"] = "given_up"
        self.end()

    def told(self, outcome: Outcome, code: Code | None) -> None:
        """Note how it ended. It is a fault where the caller is not to blame."""
        self.attributes["gateway.outcome"] = outcome.value
        fault = outcome in _FAULTS if code is None else STATUS[code] >= 500
        if code is not None:
            self.attributes["gateway.error.code"] = code.value
        if fault:
            self.fault = (code or outcome).value
            self.attributes["error.type"] = self.fault

    def carried(self, headers: Mapping[str, str]) -> dict[str, str]:
        """``headers`` with those that make what they are sent with a part of this span."""
        carried = {**headers, PARENT: written(self.trace_id, self.span_id, sampled=True)}
        if self.state:
            carried[STATE] = self.state
        else:
            carried.pop(STATE, None)
        return carried

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        self.end_with(error)


def actor_span(trace: Span, pipeline: str, actor: str, layer_id: str) -> Span:
    """The span of an actor, which begins now."""
    attributes: dict[str, Value] = {
        "gateway.pipeline": pipeline,
        "gateway.actor": actor,
        "gateway.layer": layer_id,
    }
    return trace.child(f"actor {actor}", Kind.INTERNAL, attributes)


def transform_span(trace: Span, pipeline: str, stage: str, actor: str = "") -> Span:
    """The span of an evaluation, which begins now."""
    attributes: dict[str, Value] = {
        "gateway.pipeline": pipeline,
        "gateway.transform.stage": stage,
    }
    if actor:
        attributes["gateway.actor"] = actor
    return trace.child(f"transform {stage}", Kind.INTERNAL, attributes)


def evaluation(trace: Span | None, pipeline: str, stage: str) -> AbstractContextManager[object]:
    """Makes what is done within it an evaluation's span, where it is traced."""
    return nullcontext() if trace is None else transform_span(trace, pipeline, stage)


class Evaluations:
    """The many evaluations of one expression in a stream: one span for all of them, which lasts
    from the beginning of the first to the end of the last."""

    __slots__ = ("_began", "_clock", "_count", "_last", "_span", "_spent_s")

    def __init__(self, span: Span, clock: Callable[[], float]) -> None:
        self._span = span
        self._clock = clock
        self._count = 0
        self._spent_s = 0.0
        self._began = self._last = clock()

    def evaluate(
        self,
        evaluate: Callable[[str, Mapping[str, object] | None], str | None],
        text: str,
        bindings: Mapping[str, object] | None,
    ) -> str | None:
        """What ``evaluate`` gives. Raises what it raises."""
        began = self._clock()
        try:
            return evaluate(text, bindings)
        except GatewayError as error:
            self._span.told(error.outcome, error.code)
            raise
        finally:
            self._last = self._clock()
            self._count += 1
            self._spent_s += self._last - began

    def end(self) -> None:
        """There will be no more."""
        attributes = self._span.attributes
        if "gateway.outcome" not in attributes:
            self._span.told(Outcome.COMPLETE, None)
        attributes["gateway.transform.evaluations"] = self._count
        attributes["gateway.transform.seconds"] = round(self._spent_s, 6)
        self._span.end(after_ns=int((self._last - self._began) * 1e9))


class Tracing:
    """What is traced, by one configuration.

    Args:
        ratio: the share of requests that are, of those whose caller has not decided.
        sink: takes spans that are over; it must not wait.
    """

    def __init__(self, ratio: float, sink: Callable[[Span], None]) -> None:
        # As other gateways and services decide it by the same ID.
        self._bound = round(ratio * (_LOW_BITS + 1))
        self._sink = sink

    def begin(self, headers: Headers, name: str) -> tuple[Span | None, Mapping[str, str]]:
        """The span of a request with these ``headers``, where it is sampled; and those that go on
        to upstreams with it."""
        context = None
        if _PARENT in headers:
            context = parsed(headers.getall(_PARENT), headers.getall(_STATE, ()))
        if context is None:
            # Both IDs in one: most requests of a gateway that samples few need no more than this.
            drawn = f"{_RANDOM.getrandbits(192):048x}"
            trace_id = drawn[:32]
            if not self._sampled(trace_id):
                return None, {PARENT: f"00-{trace_id}-{drawn[32:]}-00"}
            span = self._root(name, Kind.SERVER, trace_id, "", "")
        elif context.sampled:
            span = self._root(name, Kind.SERVER, context.trace_id, context.span_id, context.state)
        else:
            return None, passed_on(headers.getall(_PARENT), headers.getall(_STATE, ()))
        return span, span.carried(_NO_HEADERS)

    def begin_apart(self, headers: Mapping[str, str], name: str) -> Span | None:
        """The span of work that a request asked for which had these ``headers`` when it went on:
        of a trace of its own, linked to the request's, and sampled where that was."""
        asked = parsed([headers[PARENT]], []) if PARENT in headers else None
        trace_id = _new_trace_id()
        if not (self._sampled(trace_id) if asked is None else asked.sampled):
            return None
        span = self._root(name, Kind.CONSUMER, trace_id, "", "")
        span.link = asked
        return span

    def _sampled(self, trace_id: str) -> bool:
        return int(trace_id[16:], 16) < self._bound

    def _root(self, name: str, kind: Kind, trace_id: str, parent_id: str, state: str) -> Span:
        return Span(
            name,
            kind,
            trace_id=trace_id,
            parent_id=parent_id,
            state=state,
            wall_ns=time_ns() - monotonic_ns(),
            sink=self._sink,
            attributes={},
        )


@contextmanager
def apart(
    tracing: Tracing | None, headers: Mapping[str, str], pipeline: str, execution: str
) -> Iterator[Span | None]:
    """The span of a queued run, which is what is done within it; ``headers`` are those that the
    request for it had when it went on. ``None``: it is not traced."""
    span = None if tracing is None else tracing.begin_apart(headers, "run")
    if span is None:
        yield None
        return
    span.attributes["gateway.pipeline"] = pipeline
    span.attributes["gateway.execution_id"] = execution
    with span:
        yield span


def untraced(headers: Headers) -> Mapping[str, str]:
    """The headers of a caller's trace that go on to upstreams where nothing is traced here."""
    if _PARENT not in headers:
        return _NO_HEADERS
    return passed_on(headers.getall(_PARENT), headers.getall(_STATE, ()))


def _new_trace_id() -> str:
    return f"{_RANDOM.getrandbits(128) or 1:032x}"


def _new_span_id() -> str:
    return f"{_RANDOM.getrandbits(64) or 1:016x}"


#: IDs keep no secret. Every process is started anew, so no two draw the same.
_RANDOM: Final = Random()  # noqa: S311
