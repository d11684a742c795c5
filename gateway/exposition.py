"""The text of /metrics.

prometheus-client's own writers make several objects for each line. A gateway with hundreds of busy
pipelines has tens of thousands of lines, and its streams wait meanwhile, so these write a line as
one text; what comes out is the same to the byte.

Owns: the two formats, the classic one and OpenMetrics, and which of them a scraper gets.
Does not know: what is measured, or who answers the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Final, TypeAlias

from prometheus_client.utils import floatToGoString

from gateway.gathered import Exemplar, Exemplars, Family, Labels, Series, Values
from gateway.metrics import Metrics
from gateway.sampling import exemplars, families, series

#: Takes an ``Accept`` header, gives the text and its content type.
Exposition: TypeAlias = Callable[[str], Awaitable[tuple[bytes, str]]]

_CLASSIC: Final = "text/plain"
_OPEN: Final = "application/openmetrics-text"
_CONTENT_TYPES: Final = {
    _CLASSIC: "text/plain; version=0.0.4; charset=utf-8",
    _OPEN: "application/openmetrics-text; version=1.0.0; charset=utf-8",
}
_LE: Final = "le"
_NO_EXEMPLARS: Final[Exemplars] = {}

_number = lru_cache(4096)(floatToGoString)


def exposition_of(metrics: Metrics) -> Exposition:
    """The exposition of what ``metrics`` hold whenever it is asked for."""

    async def expose(accept: str) -> tuple[bytes, str]:
        # Many pipelines make many lines: written in a thread, so that streams go on meanwhile.
        now = (families(metrics), series(metrics), accept, exemplars(metrics))
        return await asyncio.to_thread(written, *now)

    return expose


def written(
    families: Iterable[Family], total: Series, accept: str, exemplars: Exemplars = _NO_EXEMPLARS
) -> tuple[bytes, str]:
    """``total`` as text in the form that ``accept`` asks for, and its content type. ``exemplars``
    have no place in the classic one."""
    form = _form(accept)
    lines: list[str] = []
    for family in families:
        marked = exemplars.get(family.name, {}) if form == _OPEN else {}
        lines += _head(family, form)
        lines += _samples(family, total.get(family.name, {}), marked)
    if form == _OPEN:
        lines.append("# EOF\n")
    return "".join(lines).encode(), _CONTENT_TYPES[form]


def _form(accept: str) -> str:
    """The first of the two that ``accept`` names in a version there is."""
    for each in accept.split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        if name == _CLASSIC:
            return _CLASSIC
        if name == _OPEN and given.get("version", "1.0.0").startswith("1."):
            return _OPEN
    return _CLASSIC


def _head(family: Family, form: str) -> Iterator[str]:
    name, text = family.name, family.help.replace("\\", r"\\").replace("\n", r"\n")
    if form == _OPEN:
        name, text = name.removesuffix("_total"), text.replace('"', r"\"")
    yield f"# HELP {name} {text}\n"
    yield f"# TYPE {name} {family.kind}\n"


def _samples(
    family: Family, series: dict[Labels, Values], marked: dict[Labels, dict[int, Exemplar]]
) -> Iterator[str]:
    """The lines of a family. Its labels are written in the order of their names."""
    name = family.name
    order = sorted(range(len(family.labels)), key=family.labels.__getitem__)
    before = [place for place in order if family.labels[place] < _LE]
    after = [place for place in order if family.labels[place] > _LE]
    for labels, values in series.items():
        pairs = [
            f'{key}="{_escaped(each)}"' for key, each in zip(family.labels, labels, strict=True)
        ]
        own = ",".join([pairs[place] for place in order])
        own = f"{{{own}}}" if own else ""
        if family.kind != "histogram":
            yield f"{name}{own} {_number(values[0])}\n"
            continue
        start = "".join([pairs[place] + "," for place in before])
        end = "".join(["," + pairs[place] for place in after])
        reached = [_number(float(each)) for each in accumulate(values[:-1])]
        ends = ["\n"] * len(reached)
        for place, exemplar in marked.get(labels, {}).items():
            ends[place] = _exemplar(*exemplar)
        for bound, count, last in zip(family.bounds, reached, ends, strict=True):
            yield f'{name}_bucket{{{start}{_LE}="{bound}"{end}}} {count}{last}'
        yield f"{name}_count{own} {reached[-1]}\n{name}_sum{own} {_number(values[-1])}\n"


def _exemplar(value: float, trace_id: str, span_id: str, when: float) -> str:
    ids = f'span_id="{span_id}",trace_id="{trace_id}"'
    return f" # {{{ids}}} {_number(value)} {when}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
