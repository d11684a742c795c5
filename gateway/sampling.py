"""What this process has counted, for the ledger of all; and what all have, as text.

Owns: reading the families as ``gathered`` has them, in pieces so small that streams go on
meanwhile; writing them for whoever asks for /metrics.
Does not know: who asks, or how often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.exposition import written
from gateway.gathered import Change, Family, Labels, Series, Values, change
from gateway.metrics import Metrics
from gateway.tallies import Counter, Gauge, Histogram, Spread

#: Series that are read before others get their turn: about a tenth of a millisecond's worth.
_AT_A_TIME: Final = 256


def families(metrics: Metrics) -> list[Family]:
    """Every family of ``metrics``."""
    found = []
    for each in vars(metrics).values():
        match each:
            case Counter():
                found.append(Family(each.name, "counter", each.documentation, each.labelnames))
            case Gauge():
                found.append(Family(each.name, "gauge", each.documentation, each.labelnames))
            case Histogram():
                found.append(
                    Family(
                        each.name,
                        "histogram",
                        each.documentation,
                        each.labelnames,
                        each.bound_names,
                    )
                )
    return found


def series(metrics: Metrics) -> Series:
    """The numbers of ``metrics`` as they are now."""
    found: Series = {}
    for name, labels, values in _numbers(metrics):
        found.setdefault(name, {})[labels] = values
    return found


def _numbers(metrics: Metrics) -> Iterator[tuple[str, Labels, Values]]:
    for family in vars(metrics).values():
        if isinstance(family, Counter | Gauge | Histogram):
            for labels, one in family.items():
                if isinstance(one, Spread):
                    yield family.name, labels, (*one.counts, one.sum)
                else:
                    yield family.name, labels, (float(one.value),)


class Counts:
    """Tells how the numbers of ``metrics`` change from one time to the next."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._told: Series = {}
        self._one_at_a_time = asyncio.Lock()
        #: What the last telling took of this thread's time, seconds.
        self.took_s = 0.0

    async def change(self) -> Change:
        """What is new since this was asked for the last time."""
        async with self._one_at_a_time:
            found: Series = {}
            began, took_s = perf_counter(), 0.0
            for number, (name, labels, values) in enumerate(_numbers(self._metrics)):
                found.setdefault(name, {})[labels] = values
                if number % _AT_A_TIME == _AT_A_TIME - 1:
                    took_s += perf_counter() - began
                    await asyncio.sleep(0)
                    began = perf_counter()
            told, self._told = self._told, found
            new = change(told, found)
            self.took_s = took_s + perf_counter() - began
            return new


class _Total(Collector):
    """Families and their numbers, as prometheus-client reads them."""

    def __init__(self, families: Iterable[Family], total: Series) -> None:
        self._families = families
        self._total = total

    def collect(self) -> Iterator[Metric]:
        """See prometheus-client."""
        for family in self._families:
            yield _metric(family, self._total.get(family.name, {}))


def text_of(families: Iterable[Family], total: Series, accept: str) -> tuple[bytes, str]:
    """The text of /metrics in the form that ``accept`` asks for, and its content type."""
    return written(_Total(families, total), accept)


def _metric(family: Family, series: dict[Labels, Values]) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, (*counts, total) in series.items():
            reached, buckets = 0.0, []
            for bound, count in zip(family.bounds, counts, strict=True):
                reached += count
                buckets.append((bound, reached))
            histogram.add_metric(labels, buckets, total)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, (value,) in series.items():
        metric.add_metric(labels, value)
    return metric
