"""Every metric family of the gateway, on a registry that is handed in.

Owns: the families, their labels and buckets. Label values come from the configuration or from
enumerations, never from a request: what nobody configured is counted under ``-``.
Does not know: what is measured, or when.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from enum import StrEnum
from functools import partial
from typing import Final, Protocol

from prometheus_client import CollectorRegistry

from gateway.errors import Outcome
from gateway.tallies import Count, Counter, Gauge, Histogram, Spread, observe

#: The label value for what has no name in the configuration. No pipeline can be called so.
UNNAMED: Final = "-"

# Few buckets: each is a series for every pipeline, dialect and mode. What the usual limits end, of
# 30 and 60 s, takes a little longer: it is not to look like something of up to five minutes.
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 32, 65, 300)
_OVERHEAD_SECONDS: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1)
_BYTES: Final = tuple(16.0**power for power in range(2, 8))


class Dialect(StrEnum):
    """The values of the ``dialect`` label."""

    CAMBRION = "cambrion"
    PUPAU = "pupau"


class Mode(StrEnum):
    """The values of the ``mode`` label: what was asked of a pipeline, or of the gateway itself."""

    EXECUTE = "execute"
    EXECUTE_JSON = "execute_json"
    EXECUTE_TRANSFORM = "execute_transform"
    EXECUTE_STREAM = "execute_stream"
    EXECUTE_ASYNC = "execute_async"
    QUERY = "query"
    QUERY_STREAM = "query_stream"
    DESCRIBE = "describe"
    EXECUTIONS = "executions"
    WATCH = "watch"
    HOOKS = "hooks"
    OTHER = "other"


class Process(StrEnum):
    """The values of the ``process`` label: what a process of the gateway is there for."""

    WORKER = "worker"
    SUPERVISOR = "supervisor"
    EXPRESSIONS = "expressions"


#: Ends of requests that are nobody's fault but the gateway's or an upstream's.
FAILURES: Final = (Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT, Outcome.SHUT_DOWN, Outcome.INTERNAL)


class HookOutcome(StrEnum):
    """What came of a sending to a webhook: the values of that ``outcome`` label."""

    DELIVERED = "delivered"
    FAILED = "failed"
    GIVEN_UP = "given_up"
    DISABLED = "disabled"
    REFUSED = "refused"


class Ids(Protocol):
    """What a span is known by, in hexadecimal digits."""

    trace_id: str
    span_id: str


class CallSeries:
    """The series of the requests of one pipeline, dialect and mode, looked up once."""

    __slots__ = (
        "_first_event",
        "_labels",
        "_metrics",
        "_outcomes",
        "_spreads",
    )

    def __init__(self, metrics: Metrics, pipeline: str, dialect: Dialect, mode: Mode) -> None:
        self._metrics = metrics
        self._labels = (pipeline, dialect, mode)
        self._spreads = (
            metrics.request_duration.labels(*self._labels),
            metrics.overhead.labels(*self._labels),
            metrics.request_bytes.labels(pipeline, dialect),
            metrics.response_bytes.labels(pipeline, dialect),
        )
        # Only what has happened gets a series of its own, but for failures: of a series that begins
        # with its first one, a rate does not see that.
        self._outcomes: dict[Outcome, Count] = {
            outcome: metrics.requests.labels(*self._labels, outcome) for outcome in FAILURES
        }
        self._first_event: Spread | None = None

    def ended(
        self, outcome: Outcome, duration_s: float, overhead_s: float, sizes: tuple[int, int]
    ) -> None:
        """Count a request; ``sizes`` are its own and its answer's, bytes."""
        count = self._outcomes.get(outcome)
        if count is None:
            count = self._outcomes[outcome] = self._metrics.requests.labels(*self._labels, outcome)
        count.value += 1
        observe(self._spreads, (duration_s, overhead_s, *sizes))

    def began(self, first_event_s: float) -> None:
        """Note when a stream's first event was written, seconds after its request's head."""
        if self._first_event is None:
            self._first_event = self._metrics.first_event.labels(*self._labels)
        self._first_event.observe(first_event_s)

    def mark(self, seconds: tuple[float, float, float | None], span: Ids, now: float) -> None:
        """Note in which span those were that have been counted: duration, overhead and first event,
        where there was one. ``now``: Unix seconds."""
        spreads = (*self._spreads[:2], self._first_event)
        for spread, value in zip(spreads, seconds, strict=True):
            if spread is not None and value is not None:
                spread.mark(value, span.trace_id, span.span_id, now)


class Metrics:
    """The families, as attributes. One object for each registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._calls: dict[tuple[str, Dialect, Mode], CallSeries] = {}
        self._of_requests()
        self._of_limits()
        self._of_upstreams()
        self._of_configurations()
        self._of_executions()
        self._of_webhooks()
        self._of_processes()

    def _of_requests(self) -> None:
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry, buckets=_SECONDS)
        side = ("pipeline", "dialect")
        route = (*side, "mode")

        self.requests = counter(
            "gateway_requests_total",
            "Requests that have ended, by how they ended.",
            (*route, "outcome"),
        )
        self.request_duration = histogram(
            "gateway_request_duration_seconds",
            "Time from the request's head to the end of its answer.",
            route,
        )
        self.first_event = histogram(
            "gateway_first_event_seconds",
            "Time from the request's head to the first event written to the client; streams only.",
            route,
        )
        self.overhead = histogram(
            "gateway_overhead_seconds",
            "Time in the gateway less time waiting for upstreams and for the client.",
            route,
            buckets=_OVERHEAD_SECONDS,
        )
        self.stream_events = counter(
            "gateway_stream_events_total", "Events written to clients.", side
        )
        self.streams_open = gauge(
            "gateway_streams_open", "Streams to clients that are open now.", side
        )
        self.request_bytes = histogram(
            "gateway_request_bytes", "Size of request bodies, inflated.", side, buckets=_BYTES
        )
        self.response_bytes = histogram(
            "gateway_response_bytes", "Size of answers' bodies.", side, buckets=_BYTES
        )

    def _of_limits(self) -> None:
        self.limited = Counter(
            "gateway_limited_total",
            "Requests that were refused because their key had reached a limit of its own: minute, "
            "streams or day.",
            ("key", "limit"),
            registry=self.registry,
        )
        self.limits_store_up = Gauge(
            "gateway_limits_store_up",
            "1 while the Redis in which keys' limits are counted answers, else 0.",
            (),
            registry=self.registry,
        )

    def _of_upstreams(self) -> None:
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry, buckets=_SECONDS)
        upstream = ("upstream", "kind")

        self.upstream_requests = counter(
            "gateway_upstream_requests_total",
            "Calls to upstreams that have ended, by how they ended; client_gone: given up.",
            (*upstream, "outcome"),
        )
        self.upstream_duration = histogram(
            "gateway_upstream_duration_seconds",
            "Time from the call to an upstream to the end of its answer.",
            upstream,
        )
        self.upstream_first_event = histogram(
            "gateway_upstream_first_event_seconds",
            "Time from the call to an upstream to its first event.",
            upstream,
        )
        self.upstream_running = gauge(
            "gateway_upstream_running", "Calls of an upstream that run now.", upstream
        )
        self.upstream_waiting = gauge(
            "gateway_upstream_waiting", "Calls that wait for their turn on it.", upstream
        )
        self.upstream_refused = counter(
            "gateway_upstream_refused_total",
            "Calls that were not made: breaker open, queue full, waited too long.",
            (*upstream, "reason"),
        )
        self.upstream_retries = counter(
            "gateway_upstream_retries_total", "Calls that were made again.", upstream
        )
        self.upstream_breaker = gauge(
            "gateway_upstream_breaker", "0: closed, 1: half open, 2: open.", upstream
        )
        self.upstream_up = gauge(
            "gateway_upstream_up", "1 where the upstream's last answer was good, else 0.", upstream
        )

    def _of_configurations(self) -> None:
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        stage = ("pipeline", "stage")

        self.actor_taken = counter(
            "gateway_actor_taken_total",
            "Which upstream an actor's content was taken from, where it names several.",
            ("pipeline", "actor", "upstream"),
        )
        self.actor_failures = counter(
            "gateway_actor_failures_total",
            "Actors of pipelines of layers that failed, whether the run went on or not.",
            ("pipeline", "actor", "code"),
        )
        self.config_loaded = gauge(
            "gateway_config_loaded_timestamp_seconds",
            "When the configuration that is live now was loaded, Unix time.",
            (),
        )
        self.config_hash = gauge(
            "gateway_config_hash",
            "The first 48 bits of the SHA-256 of the live configuration and its files.",
            (),
        )
        self.config_last_load = gauge(
            "gateway_config_last_load_ok",
            "1 where the last attempt to load a configuration was a success, else 0.",
            (),
        )
        self.certificate_expiry = gauge(
            "gateway_certificate_expiry_timestamp_seconds",
            "When a certificate ends that the gateway shows, Unix time: server: to clients; "
            "upstreams.NAME: to that upstream.",
            ("certificate",),
        )
        self.tls_failed = counter(
            "gateway_tls_failed_total",
            "Connections of clients on which TLS did not come about. refused: the client does not "
            "accept the gateway's certificate.",
            ("reason",),
        )
        self.config_loads = counter(
            "gateway_config_loads_total", "Attempts to load a configuration.", ("result",)
        )
        self.transform_duration = Histogram(
            "gateway_transform_duration_seconds",
            "Time of one evaluation of a JSONata expression, the wait for a process included.",
            stage,
            registry=self.registry,
            buckets=_OVERHEAD_SECONDS,
        )
        self.transform_errors = counter(
            "gateway_transform_errors_total", "Evaluations that failed.", (*stage, "reason")
        )

    def _of_executions(self) -> None:
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)

        self.executions = gauge(
            "gateway_executions",
            "Executions in the store; told by one process of all that share it.",
            ("status",),
        )
        self.execution_queue = histogram(
            "gateway_execution_queue_seconds",
            "Time from a run's acceptance to its beginning.",
            (),
            buckets=_SECONDS,
        )
        self.execution_duration = histogram(
            "gateway_execution_duration_seconds",
            "Time from a run's beginning to its end.",
            ("status",),
            buckets=_SECONDS,
        )
        self.execution_recovered = counter(
            "gateway_execution_recovered_total",
            "Runs that were begun again, because whoever ran them had died.",
            (),
        )
        self.oldest_queued = gauge(
            "gateway_execution_oldest_queued_seconds",
            "How long the run that is next in the queue has waited, 0 where none is; told by one "
            "process of all.",
            (),
        )
        self.event_log_bytes = gauge(
            "gateway_event_log_bytes",
            "Size of all logs of executions' events; told by one process of all.",
            (),
        )
        self.resumed_streams = counter(
            "gateway_resumed_streams_total",
            "Streams that were attached to behind an event that their client had already.",
            (),
        )
        self.store_up = gauge(
            "gateway_store_up", "1 while the store of executions answers, else 0.", ()
        )
        self.store_duration = histogram(
            "gateway_store_seconds",
            "Time of one call of the store of executions.",
            ("operation",),
            buckets=_OVERHEAD_SECONDS,
        )

    def _of_webhooks(self) -> None:
        self.hook_deliveries = Counter(
            "gateway_hook_deliveries_total",
            "Messages to webhooks: arrived, to be tried again, given up, not wanted any more, or "
            "not sent because of where they were to go.",
            ("outcome",),
            registry=self.registry,
        )
        self.hook_duration = Histogram(
            "gateway_hook_delivery_seconds",
            "Time of one sending to a webhook, with the answer.",
            (),
            registry=self.registry,
            buckets=_SECONDS,
        )

    def _of_processes(self) -> None:
        self.workers = Gauge(
            "gateway_workers", "Processes that serve now.", (), registry=self.registry
        )
        self.trace_spans = Counter(
            "gateway_trace_spans_total",
            "Spans that were sent to the collector, could not be (failed), or were more than may "
            "wait for that (dropped).",
            ("result",),
            registry=self.registry,
        )
        self.worker_restarts = Counter(
            "gateway_worker_restarts_total",
            "Workers that were started in the place of one that had ended.",
            (),
            registry=self.registry,
        )

        gauge = partial(Gauge, registry=self.registry)
        self.build_info = gauge(
            "gateway_build_info", "Always 1; the version is in the label.", ("version",)
        )
        self.started = gauge(
            "gateway_started_timestamp_seconds", "When the gateway was started, Unix time.", ()
        )
        self.ready = gauge(
            "gateway_ready",
            "1 where /readyz said so when it was asked last, else 0; of several workers the worst. "
            "Not there where nobody has asked for a minute.",
            (),
        )
        self.memory = gauge(
            "gateway_memory_bytes",
            "Resident memory of the gateway's processes; what they share counts for each.",
            ("process",),
        )
        self.open_files = gauge(
            "gateway_open_files_ratio",
            "Open sockets and files, as a share of what the system allows a process; of several "
            "workers the highest.",
            (),
        )

    def watch_executions(self) -> None:
        """Begin at 0 what would else begin with its first event, which no rate would see."""
        for ended in ("COMPLETED", "FAILED", "CANCELLED"):
            self.execution_duration.labels(ended)
        for outcome in HookOutcome:
            self.hook_deliveries.labels(outcome)
        for family in (self.execution_recovered, self.resumed_streams):
            family.labels()

    def calls(self, pipeline: str, dialect: Dialect, mode: Mode) -> CallSeries:
        """The series that one request is counted in when it has ended."""
        key = (pipeline, dialect, mode)
        series = self._calls.get(key)
        if series is None:
            series = self._calls[key] = CallSeries(self, *key)
        return series

    def forget(self, names: Sequence[str], gone: Set[tuple[str, ...]]) -> None:
        """Drop every series whose labels of these ``names`` have values that are in ``gone``: they
        are not configured any more.

        Else each configuration that there ever was would stay in memory and in every scrape."""
        self._calls.clear()  # what is still needed is found again
        for family in vars(self).values():
            if isinstance(family, Counter | Gauge | Histogram) and set(names) <= set(
                family.labelnames
            ):
                family.forget(names, gone)
