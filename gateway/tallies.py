"""Counters, gauges and histograms for the one thread that counts.

prometheus-client's own are safe for any thread, and pay for it at every count: a lock for each
number, a lock and a check of types for each look-up of labels. A small request is counted a dozen
times, so these do without. What is counted is handed to prometheus-client when it is asked for,
which may be on another thread: a number is then as it was a moment before or after another.

Owns: the numbers, by label values, and their hand-over to a registry.
Does not know: what is counted, nor how it is exposed.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Sequence, Set
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as _Exemplar
from prometheus_client.utils import floatToGoString

from gateway.gathered import Exemplar

_INFINITE: Final = "+Inf"


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Count ``amount`` more."""
        self.value += amount


class Level:
    """One series of a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """``amount`` more."""
        self.value += amount

    def dec(self, amount: float = 1.0) -> None:
        """``amount`` less."""
        self.value -= amount

    def set(self, value: float) -> None:
        """``value``, whatever it was before."""
        self.value = value


class Spread:
    """One series of a histogram: how many observations lie in each bucket, and their sum.

    ``exemplars``: the newest traced observation in each bucket, by the bucket's place; ``None``
    where none was.
    """

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] | None = None

    def observe(self, value: float) -> None:
        """Count one observation: in the first bucket whose bound is not less than ``value``."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def mark(self, value: float, trace_id: str, span_id: str, now: float) -> None:
        """Note in which span an observation was made that has been counted. ``now``: Unix
        seconds."""
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[bisect_left(self.bounds, value)] = (value, trace_id, span_id, now)


def observe(spreads: Sequence[Spread], values: Sequence[float]) -> None:
    """Count one observation in each of ``spreads``, as its own ``observe`` would."""
    for spread, value in zip(spreads, values, strict=True):
        spread.counts[bisect_left(spread.bounds, value)] += 1
        spread.sum += value


S = TypeVar("S", Count, Level, Spread)


class _Family(Collector, Generic[S]):
    """The series of one name. ``labels`` finds one, or makes it."""

    def __init__(
        self, name: str, documentation: str, labelnames: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self.name = name
        self.labelnames = tuple(labelnames)
        self.documentation = documentation
        self._series: dict[tuple[str, ...], S] = {}
        registry.register(self)

    def labels(self, *values: str) -> S:
        """The series with these values, in the order of the names."""
        series = self._series.get(values)
        if series is None:
            if len(values) != len(self.labelnames):
                raise ValueError(f"{self.name} has the labels {self.labelnames}, given {values}")
            series = self._series[values] = self._new()
        return series

    def items(self) -> list[tuple[tuple[str, ...], S]]:
        """Every series there is now, by its label values."""
        return list(self._series.items())

    def forget(self, names: Sequence[str], gone: Set[tuple[str, ...]]) -> None:
        """Drop every series whose labels of these ``names`` have values that are in ``gone``."""
        places = [self.labelnames.index(name) for name in names]
        self._series = {
            values: series
            for values, series in self._series.items()
            if tuple([values[place] for place in places]) not in gone
        }

    def describe(self) -> Iterable[Metric]:
        """See prometheus-client: the family without its series."""
        return [self._metric()]

    @abstractmethod
    def _new(self) -> S:
        """A series that nothing has been counted in."""

    @abstractmethod
    def _metric(self) -> Metric:
        """The family as prometheus-client has it, without its series."""


class Counter(_Family[Count]):
    """A family of counters."""

    def collect(self) -> Iterable[Metric]:
        """See prometheus-client."""
        family = self._metric()
        for values, series in self.items():
            family.add_metric(values, series.value)
        return [family]

    def _new(self) -> Count:
        return Count()

    def _metric(self) -> CounterMetricFamily:
        return CounterMetricFamily(self.name, self.documentation, labels=self.labelnames)


class Gauge(_Family[Level]):
    """A family of gauges."""

    def collect(self) -> Iterable[Metric]:
        """See prometheus-client."""
        family = self._metric()
        for values, series in self.items():
            family.add_metric(values, series.value)
        return [family]

    def _new(self) -> Level:
        return Level()

    def _metric(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(self.name, self.documentation, labels=self.labelnames)


class Histogram(_Family[Spread]):
    """A family of histograms. ``buckets``: the upper bounds, ascending, without the infinite."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        registry: CollectorRegistry,
        buckets: Sequence[float],
    ) -> None:
        self._bounds = tuple(map(float, buckets))
        #: The bounds as they are written, the infinite one too.
        self.bound_names = (*map(floatToGoString, self._bounds), _INFINITE)
        super().__init__(name, documentation, labelnames, registry)

    def collect(self) -> Iterable[Metric]:
        """See prometheus-client."""
        family = self._metric()
        for values, series in self.items():
            total = 0
            buckets: list[tuple[str, float] | tuple[str, float, _Exemplar]] = []
            marked = dict(series.exemplars or {})
            for place, name in enumerate(self.bound_names):
                total += series.counts[place]
                if (held := marked.get(place)) is None:
                    buckets.append((name, total))
                    continue
                value, trace_id, span_id, when = held
                ids = {"trace_id": trace_id, "span_id": span_id}
                buckets.append((name, total, _Exemplar(ids, value, when)))
            family.add_metric(values, buckets, series.sum)
        return [family]

    def _new(self) -> Spread:
        return Spread(self._bounds)

    def _metric(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self.name, self.documentation, labels=self.labelnames)
