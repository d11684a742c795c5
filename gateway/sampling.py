"""What this process has counted, as ``gathered`` has it.

Owns: reading the families, where that is to disturb nobody in pieces so small that streams go on
meanwhile.
Does not know: who asks, or how often; how it is written down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter
from typing import Final

from gateway.gathered import Change, Exemplars, Family, Labels, Series, Values, change
from gateway.metrics import Metrics
from gateway.tallies import Counter, Gauge, Histogram, Spread

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
    for name, labels, values in _numbers(metrics):
        found.setdefault(name, {})[labels] = values
    return found


def exemplars(metrics: object) -> Exemplars:
    """The exemplars of ``metrics`` as they are now."""
    found: Exemplars = {}
    for family in vars(metrics).values():
        if isinstance(family, Histogram):
            marked = {
                labels: dict(one.exemplars) for labels, one in family.items() if one.exemplars
            }
            if marked:
                found[family.name] = marked
    return found


def _numbers(metrics: object) -> Iterator[tuple[str, Labels, Values]]:
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
        self._marked: Exemplars = {}
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
            new.exemplars = self._new_exemplars()
            self.took_s = took_s + perf_counter() - began
            return new

    def _new_exemplars(self) -> Exemplars:
        """Those that were not told yet. There are some only where requests are traced."""
        marked, self._marked = self._marked, exemplars(self._metrics)
        new: Exemplars = {}
        for name, series in self._marked.items():
            told = marked.get(name, {})
            for labels, held in series.items():
                if held != (old := told.get(labels, {})):
                    new.setdefault(name, {})[labels] = dict(held.items() - old.items())
        return new
