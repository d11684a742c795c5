"""The way of spans to a collector, by OTLP over HTTP.

Spans wait in a queue of bounded length, and are sent a few hundred at a time. Everything is done
on the loop, in pieces of a fraction of a millisecond: a thread would hold the loop up for longer,
while it has Python to itself. What cannot be sent within the time that there is for it is given up.

Owns: that queue, what is sent when, how often it is tried again, what log and metrics say of it;
how a span is written down for OTLP.
Does not know: what is traced.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

import aiohttp
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Written

from gateway import __version__, logs
from gateway.edge_sections import TracingConfig
from gateway.metrics import Metrics
from gateway.tracing import Span, Value

#: How long a span waits at most until it is sent, seconds; and how many are sent at a time.
_EVERY_S: Final = 1.0
_AT_A_TIME: Final = 512
#: So many are written down before others get their turn: about half a millisecond's worth.
_PIECE: Final = 16
#: How long the last spans may take when the gateway stops, seconds.
_LAST_S: Final = 1.5
#: Pauses before a batch is sent again, seconds: the first, and the longest.
_AGAIN_S: Final = 0.25
_AGAIN_S_MAX: Final = 5.0
#: How often the log tells that spans are lost, seconds.
_TELL_S: Final = 60.0
#: Statuses after which the same batch may be sent again (OTLP 1.x).
_BUSY: Final = (429, 502, 503, 504)
_ANSWER_BYTES_MAX: Final = 64 * 1024
#: The flags of spans and links that follow from W3C's: sampled; and that it is known where the
#: parent was, which was elsewhere.
_SAMPLED: Final = 0x01
_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200
_UNREACHABLE: Final = (aiohttp.ClientError, OSError, TimeoutError)


class Exporter:
    """Sends what ``put`` was given, from ``start`` to ``close``.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self,
        section: TracingConfig,
        *,
        session: aiohttp.ClientSession,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._section = section
        self._session = session
        self._clock = clock
        self._headers = {name: value.get_secret_value() for name, value in section.headers.items()}
        self._headers["Content-Type"] = "application/x-protobuf"
        self._resource = _resource(section.service_name, os.environ)
        self._waiting: deque[Span] = deque()
        self._enough = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ends_at = float("inf")
        self._counts = {
            result: metrics.trace_spans.labels(result) for result in ("sent", "failed", "dropped")
        }
        self._troubled = False
        self._told_at = float("-inf")

    def __str__(self) -> str:
        return "tracing"

    def put(self, span: Span) -> None:
        """Send it soon. Where too many wait already, it is dropped."""
        if self._closing.is_set() or len(self._waiting) >= self._section.spans_max:
            self._counts["dropped"].value += 1
            self._trouble("more spans than are sent (spans_max)")
            return
        self._waiting.append(span)
        if len(self._waiting) >= _AT_A_TIME:
            self._enough.set()

    def start(self) -> None:
        """Send from now on."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Send what waits, as far as the time goes that there is for it; then no more."""
        self._closing.set()
        self._ends_at = self._clock() + _LAST_S
        self._enough.set()
        if self._task is None:
            return
        # A batch that is on its way when this begins may have been given longer.
        _, late = await asyncio.wait((self._task,), timeout=_LAST_S)
        for task in late:
            task.cancel()
            await asyncio.wait((task,))
        self._counts["failed"].value += len(self._waiting)
        if not self._task.cancelled():
            self._task.result()

    async def _run(self) -> None:
        while self._waiting or not self._closing.is_set():
            if len(self._waiting) < _AT_A_TIME and not self._closing.is_set():
                self._enough.clear()
                try:
                    async with asyncio.timeout(_EVERY_S):
                        await self._enough.wait()
                except TimeoutError:
                    if not self._waiting:
                        continue
            count = min(len(self._waiting), _AT_A_TIME)
            batch = [self._waiting.popleft() for _ in range(count)]
            lost = count
            try:
                lost = await self._send(batch)
            except Exception:  # noqa: BLE001  without this, nothing would be sent ever after
                logs.events.exception("traces failed in the gateway")
            finally:
                self._counts["sent"].value += count - lost
                self._counts["failed"].value += lost

    async def _send(self, batch: Sequence[Span]) -> int:
        """Send these, again and again within the time that an export has. Returns how many were
        lost."""
        body = await self._written(batch)
        ends_at = min(self._clock() + self._section.export_timeout_s, self._ends_at)
        wait_s = _AGAIN_S
        while True:
            ends_at = min(ends_at, self._ends_at)
            try:
                async with asyncio.timeout(max(0.0, ends_at - self._clock())):
                    status, rejected = await self._post(body)
            except _UNREACHABLE as error:
                status, rejected, why = 0, 0, type(error).__name__
            else:
                why = f"the collector answered {status}"
            if 200 <= status < 300:
                if rejected:
                    self._trouble(f"the collector took all spans but {rejected}")
                else:
                    self._fine()
                return min(rejected, len(batch))
            self._trouble(why)
            if status not in (0, *_BUSY) or self._clock() + wait_s >= min(ends_at, self._ends_at):
                return len(batch)
            await self._pause(wait_s)
            wait_s = min(wait_s * 2, _AGAIN_S_MAX)

    async def _pause(self, wait_s: float) -> None:
        """Wait; where the gateway stops meanwhile, no longer than it may take."""
        pausing = asyncio.sleep(_AGAIN_S) if self._closing.is_set() else self._closing.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await pausing

    async def _post(self, body: bytes) -> tuple[int, int]:
        """The answer's status, and how many spans of these the collector would not take."""
        async with self._session.post(
            self._section.endpoint, data=body, headers=self._headers, allow_redirects=False
        ) as answer:
            said = await answer.content.read(_ANSWER_BYTES_MAX)
            if answer.status != 200 or not said:
                return answer.status, 0
        try:
            told = ExportTraceServiceResponse.FromString(said)
        except DecodeError:
            return 200, 0  # some answer in JSON; the status says what counts
        return 200, max(0, told.partial_success.rejected_spans)

    async def _written(self, batch: Sequence[Span]) -> bytes:
        """A request of OTLP. Messages of protocol buffers that stand one behind the other are one
        message, so each piece is written for itself."""
        pieces = []
        for start in range(0, len(batch), _PIECE):
            spans = map(_span, batch[start : start + _PIECE])
            scoped = ScopeSpans(scope=_SCOPE, spans=spans)
            message = ExportTraceServiceRequest(
                resource_spans=[ResourceSpans(resource=self._resource, scope_spans=[scoped])]
            )
            pieces.append(message.SerializeToString())
            await asyncio.sleep(0)
        return b"".join(pieces)

    def _trouble(self, why: str) -> None:
        """Spans are lost, or may be: the log says so, but not for each."""
        self._troubled = True
        now = self._clock()
        if now - self._told_at < _TELL_S:
            return
        self._told_at = now
        fields = {
            "error": why,
            "waiting": len(self._waiting),
            "failed": int(self._counts["failed"].value),
            "dropped": int(self._counts["dropped"].value),
        }
        logs.events.warning("traces cannot be sent", extra={"fields": fields})

    def _fine(self) -> None:
        if self._troubled and len(self._waiting) < _AT_A_TIME:
            self._troubled = False
            self._told_at = float("-inf")
            logs.events.info("traces are sent again", extra={"fields": {}})


_SCOPE: Final = InstrumentationScope(name="gateway", version=__version__)


def _resource(service_name: str, environment: Mapping[str, str]) -> Resource:
    """Who sends spans: what ``OTEL_RESOURCE_ATTRIBUTES`` says, and what is known here."""
    given: dict[str, Value] = {}
    for part in environment.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, _, value = part.partition("=")
        if name.strip():
            given[name.strip()] = unquote(value.strip())
    own: dict[str, Value] = {
        "service.name": service_name,
        "service.version": __version__,
        "service.instance.id": given.get("service.instance.id", str(uuid.uuid4())),
        "process.pid": os.getpid(),
    }
    return Resource(attributes=_pairs(given | own))


def _span(span: Span) -> Written:
    """A span as OTLP has it."""
    written = Written(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id),
        trace_state=span.state,
        name=span.name,
        kind=Written.SpanKind.ValueType(span.kind),
        start_time_unix_nano=span.began_ns,
        end_time_unix_nano=span.ended_ns,
        attributes=_pairs(span.attributes),
        flags=_SAMPLED | _HAS_IS_REMOTE | (_IS_REMOTE if span.remote else 0),
    )
    for name, at_ns in span.events or ():
        written.events.add(name=name, time_unix_nano=at_ns)
    if span.link is not None:
        written.links.add(
            trace_id=bytes.fromhex(span.link.trace_id),
            span_id=bytes.fromhex(span.link.span_id),
            flags=_SAMPLED | _HAS_IS_REMOTE | _IS_REMOTE,
        )
    if span.fault is not None:
        written.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=span.fault))
    return written


def _pairs(attributes: Mapping[str, Value]) -> Iterable[KeyValue]:
    return [
        _told(name, value) if isinstance(value, str) else KeyValue(key=name, value=_number(value))
        for name, value in attributes.items()
    ]


@lru_cache(1024)
def _told(name: str, value: str) -> KeyValue:
    """Most texts are the same for many spans."""
    text = value.encode("utf-8", "replace").decode()
    return KeyValue(key=name, value=AnyValue(string_value=text))


def _number(value: bool | float) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    return AnyValue(int_value=value) if isinstance(value, int) else AnyValue(double_value=value)
