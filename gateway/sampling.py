"""What this process has counted, as ``gathered`` has it.

Owns: reading the families, where that is to disturb nobody in pieces so small that streams go on
meanwhile.
Does not know: who asks, or how often; how it is written down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter
from typing import Final, TypeAlias

from gateway.gathered import Change, Exemplar, Exemplars, Family, Labels, Series, Values, change
from gateway.metrics import Metrics
from gateway.tallies import Counter, Gauge, Histogram, Spread

#: A series' exemplars, by the place of their bucket.
Marks: TypeAlias = dict[int, Exemplar]

#: Series that are read before others get their turn: about a tenth of a millisecond's worth.
_AT_A_TIME: Final = 256


def families(metrics: object) -> list[Family]:
    """Every family that is an attribute of ``metrics``."""
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


def series(metrics: object) -> Series:
    """The numbers of ``metrics`` as they are now."""
    found: Series = {}
    for name, labels, values, _ in _numbers(metrics):
        found.setdefault(name, {})[labels] = values
    return found


def exemplars(metrics: object) -> Exemplars:
    """The exemplars of ``metrics`` as they are now."""
    found: Exemplars = {}
    for name, labels, _, marks in _numbers(metrics):
        if marks:
            found.setdefault(name, {})[labels] = dict(marks)
    return found


def _numbers(metrics: object) -> Iterator[tuple[str, Labels, Values, Marks | None]]:
    for family in vars(metrics).values():
        if isinstance(family, Counter | Gauge | Histogram):
            for labels, one in family.items():
                if isinstance(one, Spread):
                    yield family.name, labels, (*one.counts, one.sum), one.exemplars
                else:
                    yield family.name, labels, (float(one.value),), None


class Counts:
    """Tells how the numbers of ``metrics`` change from one time to the next."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._told: Series = {}
        self._marked: dict[tuple[str, Labels], Marks] = {}
        self._one_at_a_time = asyncio.Lock()
        #: What the last telling took of this thread's time, seconds.
        self.took_s = 0.0

    async def change(self) -> Change:
        """What is new since this was asked for the last time."""
        async with self._one_at_a_time:
            found: Series = {}
            marked: dict[tuple[str, Labels], Marks] = {}
            news: Exemplars = {}
            began, took_s = perf_counter(), 0.0
            for number, (name, labels, values, marks) in enumerate(_numbers(self._metrics)):
                found.setdefault(name, {})[labels] = values
                if marks:
                    now = marked[name, labels] = dict(marks)
                    before = self._marked.get((name, labels), {})
                    if now != before:
                        new_here = dict(now.items() - before.items())
                        news.setdefault(name, {})[labels] = new_here
                if number % _AT_A_TIME == _AT_A_TIME - 1:
                    took_s += perf_counter() - began
                    await asyncio.sleep(0)
                    began = perf_counter()
            told, self._told = self._told, found
            new = change(told, found)
            new.exemplars, self._marked = news, marked
            self.took_s = took_s + perf_counter() - began
            return new
