"""What is known of one request and its answer, and what is said of it when it has ended.

Owns: how a request ended and why, the metrics it is counted in, its line in the log.
Does not know: how it is answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import time
from typing import Final

from msgspec import Struct

from gateway import logs, tracing_request
from gateway.errors import Code, GatewayError, Outcome
from gateway.fanout import Waited
from gateway.keys import Caller
from gateway.metrics import UNNAMED, Dialect, Metrics, Mode
from gateway.outlet import Outlet
from gateway.protocol import Incoming
from gateway.quotas import Taken
from gateway.site import Site
from gateway.tracing import Span

#: Rejections whose messages speak of upstreams, or of a key's name.
_OF_NAMES: Final = (Code.OVERLOADED, Code.UPSTREAM_REJECTED, Code.RATE_LIMITED)


class _Line(Struct, omit_defaults=True):
    """What the log says of a request; what does not concern it is left out."""

    request_id: str
    dialect: str
    mode: str
    pipeline: str
    upstream: str | None
    key: str | None
    status: int | None
    outcome: str
    duration_s: float
    overhead_s: float
    request_bytes: int
    response_bytes: int
    first_event_s: float | None = None
    events: int | None = None
    actors_failed: dict[str, Code] | None = None
    code: str | None = None
    error: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and its answer."""

    request: Incoming
    site: Site
    request_id: str
    began: float
    dialect: Dialect
    outlet: Outlet
    mode: Mode = Mode.OTHER
    pipeline: str = UNNAMED
    upstream: str | None = None
    key: str | None = None
    outcome: Outcome = Outcome.COMPLETE
    code: Code | None = None
    message: str | None = None
    status: int | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    events: int = 0
    first_event_s: float | None = None
    actors_failed: Mapping[str, Code] = field(default_factory=dict)
    waited: Waited = field(default_factory=Waited)
    #: Its span, where it is traced; and the headers of the trace that go on to upstreams, where
    #: traces are configured.
    trace: Span | None = None
    carried: Mapping[str, str] | None = None
    #: Who is calling, where that had to be known before anything else.
    caller: Caller | None = None
    #: What it has of the caller's limits, and the lines of the answer's head that tell of those.
    taken: Taken | None = None
    limits: str = ""
    #: A probe or a scrape that is answered as always: as often as they come, a line for each would
    #: hide the others.
    routine: bool = False
    _ending: GatewayError | None = None

    def fail(self, error: GatewayError) -> None:
        """Note how it ended; not the error itself, whose traceback would tie all this in a knot."""
        self.outcome, self.code, self.message = error.outcome, error.code, error.message

    def leave(self) -> None:
        """Note that the client is gone, unless the gateway itself had ended it already."""
        if self.outcome is not Outcome.SHUT_DOWN:
            self.outcome = Outcome.CLIENT_GONE

    def end(self, error: GatewayError) -> None:
        """End it from outside with ``error``: its task is cancelled, and asks ``ended`` why."""
        if self.outcome is not Outcome.SHUT_DOWN:
            self.fail(error)
            self._ending = error
            self.request.task.cancel()

    def ended(self) -> GatewayError | None:
        """The error that it was ended with, where that is why the task was cancelled; only then
        the task may go on. ``None`` where its client has gone."""
        error, self._ending = self._ending, None
        return None if error is None or self.request.task.uncancel() else error

    def account(self, metrics: Metrics, now: float) -> None:
        """Count it and log its line, once, whatever way it ended. ``now`` is loop time, seconds."""
        duration_s = now - self.began
        overhead_s = max(0.0, duration_s - self.waited.upstream_s - self.waited.client_s)
        series = metrics.calls(self.pipeline, self.dialect, self.mode)
        sizes = (self.request_bytes, self.response_bytes)
        series.ended(self.outcome, duration_s, overhead_s, sizes)
        if self.first_event_s is not None:
            series.began(self.first_event_s)
        if self.taken is not None:
            self.taken.end(self._sent_bytes() + self.response_bytes)
        if self.routine and self.outcome is Outcome.COMPLETE:
            return
        line = _Line(
            self.request_id,
            self.dialect,
            self.mode,
            self.pipeline,
            self.upstream,
            self.key,
            self.status,
            self.outcome,
            _micro(duration_s),
            _micro(overhead_s),
            self.request_bytes,
            self.response_bytes,
        )
        if self.first_event_s is not None:
            line.first_event_s = _micro(self.first_event_s)
            line.events = self.events
        if self.actors_failed:
            line.actors_failed = dict(self.actors_failed)
        if self.code is not None:
            line.code = self.code
            # A rejection's message may quote the request; the others speak of upstreams.
            if self.outcome is not Outcome.REJECTED or self.code in _OF_NAMES:
                line.error = self.message
        elif self.outlet.dropped is not None:
            line.error = self.outlet.dropped
        if self.trace is not None:
            series.mark((duration_s, overhead_s, self.first_event_s), self.trace, time())
            line.trace_id, line.span_id = self.trace.trace_id, self.trace.span_id
            self._end_trace(self.trace)
        logs.request(line)

    def _end_trace(self, trace: Span) -> None:
        tracing_request.end(
            trace,
            self.request,
            outcome=self.outcome,
            code=self.code,
            status=self.status,
            told={
                "gateway.request_id": self.request_id,
                "gateway.dialect": self.dialect.value,
                "gateway.mode": self.mode.value,
                "gateway.pipeline": None if self.pipeline == UNNAMED else self.pipeline,
                "gateway.events": self.events if self.first_event_s is not None else None,
                "gateway.first_event_s": self.first_event_s,
                "http.request.body.size": self.request_bytes,
                "http.response.body.size": self.response_bytes,
            },
        )

    def _sent_bytes(self) -> int:
        """How long the body was as it was sent; as far as it has come where it was not read to its
        end. Chunks that were compressed count as they are inflated."""
        if not self.request_bytes:
            return self.request.content.total_bytes
        length = self.request.content_length
        return self.request_bytes if length is None else length


def _micro(seconds: float) -> float:
    """To a millionth: more digits are noise."""
    return int(seconds * 1e6 + 0.5) / 1e6
