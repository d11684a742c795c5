"""The text of /metrics: the same to the byte as prometheus-client writes it, in both formats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_open

from gateway.exposition import exposition_of, written
from gateway.metrics import Metrics
from gateway.sampling import families, series
from gateway.tallies import Counter, Gauge, Histogram

OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CLASSIC = "text/plain; version=0.0.4; charset=utf-8"
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.one_of(st.integers(0, 10**12), st.floats(0, allow_infinity=False, allow_nan=False))


class Some:
    """A few families, one with a label on each side of ``le``, one with none."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.calls = Counter("calls_total", 'Calls, "all"\nof \\ them.', ("kind", "a"), registry)
        self.open = Gauge("open", "", (), registry)
        self.took = Histogram("took_seconds", "T", ("pipeline", "dialect"), registry, (0.1, 1, 1e7))


@given(
    st.dictionaries(st.tuples(NAMES, NAMES), NUMBERS, max_size=4),
    NUMBERS,
    st.lists(st.tuples(NAMES, NAMES, NUMBERS), max_size=8),
)
def test_it_is_what_prometheus_client_writes(
    calls: dict[tuple[str, str], float],
    opened: float,
    took: list[tuple[str, str, float]],
) -> None:
    some = Some(CollectorRegistry())
    for labels, number in calls.items():
        some.calls.labels(*labels).inc(number)
    some.open.labels().set(opened)
    for pipeline, dialect, seconds in took:
        some.took.labels(pipeline, dialect).observe(seconds)
    both = [written(families(some), series(some), accept)[0] for accept in ("", OPEN)]
    assert both[0] == generate_latest(some.registry)
    assert both[1] == generate_open(some.registry)  # type: ignore[no-untyped-call]


async def test_every_family_of_the_gateway_is_written_so() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.config_loads.labels("ok").inc()
    metrics.transform_duration.labels("p", "event").observe(0.2)
    text, _ = await exposition_of(metrics)("")
    assert text == generate_latest(metrics.registry)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", CLASSIC),
        ("*/*", CLASSIC),
        ("text/html, text/plain;q=0.5", CLASSIC),
        ("application/openmetrics-text", OPEN),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPEN),
        ("application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4", CLASSIC),
        ("application/openmetrics-text; version=x", CLASSIC),
        ("text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0", CLASSIC),
        # Prometheus 3.
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
            "application/openmetrics-text;version=0.0.1;q=0.5,"
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.2",
            OPEN,
        ),
        ("application/vnd.google.protobuf;proto=x;q=0.7,*/*;q=0.1", CLASSIC),
        (";,=;version", CLASSIC),
    ],
)
def test_a_scraper_gets_the_first_format_it_names_that_there_is(
    accept: str, content_type: str
) -> None:
    assert written([], {}, accept)[1] == content_type
