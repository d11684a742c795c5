"""The text of /metrics: the same to the byte as prometheus-client writes it, in both formats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_open

from gateway.exposition import exposition_of, written
from gateway.metrics import Metrics
from gateway.sampling import exemplars, families, series
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
    st.lists(st.tuples(NAMES, NAMES, NUMBERS, st.booleans()), max_size=8),
)
def test_it_is_what_prometheus_client_writes(
    calls: dict[tuple[str, str], float],
    opened: float,
    took: list[tuple[str, str, float, bool]],
) -> None:
    some = Some(CollectorRegistry())
    for labels, number in calls.items():
        some.calls.labels(*labels).inc(number)
    some.open.labels().set(opened)
    for number, (pipeline, dialect, seconds, traced) in enumerate(took):
        series_of = some.took.labels(pipeline, dialect)
        series_of.observe(seconds)
        if traced:
            series_of.mark(seconds, f"{number:032x}", f"{number:016x}", 1.7e9 + number / 8)
    now = (families(some), series(some))
    both = [written(*now, accept, exemplars(some))[0] for accept in ("", OPEN)]
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


def test_a_bucket_tells_of_the_newest_trace_in_it_in_the_one_format_that_has_that() -> None:
    some = Some(CollectorRegistry())
    spread = some.took.labels("p", "d")
    for number, seconds in enumerate((0.05, 0.06, 1.0)):
        spread.observe(seconds)
        spread.mark(seconds, f"{number}t", f"{number}s", 1000.5 + number)
    now = (families(some), series(some))
    lines = written(*now, OPEN, exemplars(some))[0].decode().splitlines()
    start = 'took_seconds_bucket{dialect="d",le='
    assert [line.removeprefix(start) for line in lines if line.startswith(start)] == [
        '"0.1",pipeline="p"} 2.0 # {span_id="1s",trace_id="1t"} 0.06 1001.5',
        '"1.0",pipeline="p"} 3.0 # {span_id="2s",trace_id="2t"} 1.0 1002.5',
        '"1e+07",pipeline="p"} 3.0',
        '"+Inf",pipeline="p"} 3.0',
    ]
    assert b"trace_id" not in written(*now, "", exemplars(some))[0]
