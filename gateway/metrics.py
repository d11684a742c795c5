"""Every metric family of the gateway, on a registry that is handed in.

Owns: the families, their labels and buckets. Label values come from the configuration or from
enumerations, never from a request: what nobody configured is counted under ``-``.
Does not know: what is measured, or when.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

#: The label value for what has no name in the configuration. No pipeline can be called so.
UNNAMED: Final = "-"

# Few buckets: each is a series for every pipeline, dialect and mode.
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
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
    QUERY = "query"
    QUERY_STREAM = "query_stream"
    DESCRIBE = "describe"
    OTHER = "other"


class Metrics:
    """The families, as attributes. One object for each registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # A series beside each of the others that only says when it began.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        route = ("pipeline", "dialect", "mode")
        self.requests = Counter(
            "gateway_requests_total",
            "Requests that have ended, by how they ended.",
            (*route, "outcome"),
            registry=registry,
        )
        self.request_duration = Histogram(
            "gateway_request_duration_seconds",
            "Time from the request's head to the end of its answer.",
            route,
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_event = Histogram(
            "gateway_first_event_seconds",
            "Time from the request's head to the first event written to the client; streams only.",
            route,
            buckets=_SECONDS,
            registry=registry,
        )
        self.overhead = Histogram(
            "gateway_overhead_seconds",
            "Time in the gateway less time waiting for upstreams and for the client.",
            route,
            buckets=_OVERHEAD_SECONDS,
            registry=registry,
        )
        self.stream_events = Counter(
            "gateway_stream_events_total",
            "Events written to clients.",
            ("pipeline", "dialect"),
            registry=registry,
        )
        self.streams_open = Gauge(
            "gateway_streams_open",
            "Streams to clients that are open now.",
            ("pipeline", "dialect"),
            registry=registry,
        )
        self.request_bytes = Histogram(
            "gateway_request_bytes",
            "Size of request bodies, inflated.",
            ("pipeline", "dialect"),
            buckets=_BYTES,
            registry=registry,
        )
        self.response_bytes = Histogram(
            "gateway_response_bytes",
            "Size of answers' bodies.",
            ("pipeline", "dialect"),
            buckets=_BYTES,
            registry=registry,
        )
        self.upstream_requests = Counter(
            "gateway_upstream_requests_total",
            "Calls to upstreams that have ended, by how they ended.",
            ("upstream", "kind", "outcome"),
            registry=registry,
        )
        self.upstream_duration = Histogram(
            "gateway_upstream_duration_seconds",
            "Time from the call to an upstream to the end of its answer.",
            ("upstream", "kind"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.upstream_first_event = Histogram(
            "gateway_upstream_first_event_seconds",
            "Time from the call to an upstream to its first event.",
            ("upstream", "kind"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.transform_duration = Histogram(
            "gateway_transform_duration_seconds",
            "Time of one evaluation of a JSONata expression.",
            ("pipeline", "stage"),
            buckets=_OVERHEAD_SECONDS,
            registry=registry,
        )
        self.transform_errors = Counter(
            "gateway_transform_errors_total",
            "Evaluations that failed.",
            ("pipeline", "stage", "reason"),
            registry=registry,
        )
