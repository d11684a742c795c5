"""The counts of many processes as those of one.

What one process has counted is its ``Series``: by the name of the family and the values of its
labels, a number, or of a histogram the number in each bucket and their sum. A process tells how
they have changed, and the ledger holds what each that lives has told, and one sum over all that
have ended: counters and histograms never go back, however many processes come and go, and how many
did costs nothing. Gauges speak of now: those of processes that have ended are gone.

Owns: the sum, and which families are not summed up.
Does not know: how a process counts, or who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from operator import add
from typing import Final, Literal, TypeAlias

import msgspec

Labels: TypeAlias = tuple[str, ...]
Values: TypeAlias = tuple[float, ...]
Series: TypeAlias = dict[str, dict[Labels, Values]]
#: One observation and the span that it was made in: its value, the IDs of trace and span, when
#: (Unix seconds). The newest of each bucket of a histogram is kept, by the bucket's place.
Exemplar: TypeAlias = tuple[float, str, str, float]
Exemplars: TypeAlias = dict[str, dict[Labels, dict[int, Exemplar]]]

#: Gauges for which a sum over processes says nothing: one that sees trouble is enough.
_WORST: Final[dict[str, Callable[[Iterable[float]], float]]] = {
    "gateway_upstream_breaker": max,
    "gateway_upstream_up": min,
    "gateway_store_up": min,
    "gateway_limits_store_up": min,
    "gateway_ready": min,
    "gateway_open_files_ratio": max,
}


class Family(msgspec.Struct, frozen=True):
    """What the series of one name have in common.

    ``bounds`` are a histogram's, as they are written, the last one ``+Inf``.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    bounds: tuple[str, ...] = ()


class Change(msgspec.Struct, array_like=True):
    """What is new since the last one: values that have changed, and series that were dropped."""

    values: Series
    gone: dict[str, list[Labels]]
    exemplars: Exemplars = {}

    def __bool__(self) -> bool:
        return bool(self.values or self.gone)


def change(before: Series, after: Series) -> Change:
    """What makes ``before`` into ``after``."""
    values, gone = {}, {}
    for name, series in after.items():
        old = before.get(name, {})
        if new := {labels: each for labels, each in series.items() if old.get(labels) != each}:
            values[name] = new
    for name, series in before.items():
        kept = after.get(name, {})
        if lost := [labels for labels in series if labels not in kept]:
            gone[name] = lost
    return Change(values, gone)


class Ledger:
    """The counts of all processes, each known by a number that no other one ever has."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = {family.name: family for family in families}
        self._living: dict[int, Series] = {}
        self._ended: Series = {}
        self._exemplars: Exemplars = {}
        self._pipelines: Set[str] = frozenset()
        self._keys: Set[str] = frozenset()
        self._upstreams: Set[Labels] = frozenset()

    def configured(
        self,
        pipelines: Iterable[str],
        upstreams: Iterable[tuple[str, str]],
        keys: Iterable[str] = (),
    ) -> None:
        """These names are to be kept, upstreams with their kinds; what an ended process counted
        for others is dropped as soon as no living one knows of them."""
        self._pipelines, self._upstreams, self._keys = set(pipelines), set(upstreams), set(keys)
        self._forget()

    def update(self, process: int, change: Change) -> None:
        """Note what a process has told."""
        known = self._living.setdefault(process, {})
        for name, values in change.values.items():
            family, series = self._families[name], known.setdefault(name, {})
            for labels, new in values.items():
                old = series.get(labels)
                # Dropped and begun anew between two reports: what there was still counts.
                if old is not None and _began_anew(family, old, new):
                    self._add(family, labels, old)
            series.update(values)
        for name, gone in change.gone.items():
            for labels in gone:
                if (old := known[name].pop(labels, None)) is not None:
                    # The others may count for this name a while longer, and their sum must not
                    # go back before it is gone as a whole.
                    self._add(self._families[name], labels, old)
        for name, told in change.exemplars.items():
            for labels, exemplars in told.items():
                held = self._exemplars.setdefault(name, {}).setdefault(labels, {})
                for place, exemplar in exemplars.items():
                    held[place] = max(held.get(place, exemplar), exemplar, key=_when)
        if change.gone:
            self._forget()

    def ended(self, process: int) -> None:
        """Note that a process has ended."""
        for name, series in self._living.pop(process, {}).items():
            for labels, values in series.items():
                self._add(self._families[name], labels, values)
        self._forget()

    def total(self) -> Series:
        """The counts of all."""
        found: Series = {}
        for name, family in self._families.items():
            every = [own[name] for own in self._living.values() if name in own]
            if worst := _WORST.get(name):
                labelled: dict[Labels, list[float]] = {}
                for series in every:
                    for labels, (value,) in series.items():
                        labelled.setdefault(labels, []).append(value)
                found[name] = {labels: (worst(each),) for labels, each in labelled.items()}
                continue
            if family.kind != "gauge":
                every.append(self._ended.get(name, {}))
            total: dict[Labels, Values] = {}
            for series in every:
                _sum_up(total, series)
            found[name] = total
        return found

    def exemplars(self) -> Exemplars:
        """The newest of all, of what there is a ``total`` of; those of processes that have ended,
        too."""
        return {
            name: {labels: dict(held) for labels, held in series.items()}
            for name, series in self._exemplars.items()
        }

    def _add(self, family: Family, labels: Labels, values: Values) -> None:
        if family.kind != "gauge":
            _sum_up(self._ended.setdefault(family.name, {}), {labels: values})

    def _forget(self) -> None:
        """Drop what ended processes counted for names that nobody knows any more."""
        for names, known in (
            (("pipeline",), {(name,) for name in self._pipelines}),
            (("upstream", "kind"), self._upstreams),
            (("key",), {(name,) for name in self._keys}),
        ):
            unknown = {key for *_, key in self._named(self._ended, names)} - known
            if not unknown:
                continue
            for own in self._living.values():
                unknown.difference_update(key for *_, key in self._named(own, names))
            for series, labels, key in list(self._named(self._ended, names)):
                if key in unknown:
                    del series[labels]
        self._forget_exemplars()

    def _forget_exemplars(self) -> None:
        """Drop those of series that there are no more."""
        for name, held in self._exemplars.items():
            every = [self._ended, *self._living.values()]
            there: set[Labels] = set().union(*(series.get(name, {}) for series in every))
            for labels in held.keys() - there:
                del held[labels]

    def _named(
        self, counts: Series, names: tuple[str, ...]
    ) -> Iterable[tuple[dict[Labels, Values], Labels, Labels]]:
        """The series that have labels of these ``names``, and the values of those."""
        for name, series in counts.items():
            own = self._families[name].labels
            if set(names) <= set(own):
                places = [own.index(each) for each in names]
                for labels in series:
                    yield series, labels, tuple(labels[place] for place in places)


def _began_anew(family: Family, old: Values, new: Values) -> bool:
    """Whether a count is lower than it was. The sum of a histogram is no count."""
    counts = len(family.bounds) or 1
    return family.kind != "gauge" and any(
        after < before for before, after in zip(old[:counts], new[:counts], strict=True)
    )


def _when(exemplar: Exemplar) -> float:
    return exemplar[3]


def _sum_up(total: dict[Labels, Values], series: Mapping[Labels, Values]) -> None:
    for labels, values in series.items():
        held = total.get(labels)
        if held is None:
            total[labels] = values
        else:
            total[labels] = tuple(map(add, held, values))
