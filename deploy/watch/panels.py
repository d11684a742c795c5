"""What a panel of the dashboard is, and the questions that panels ask Prometheus again and again.

Owns: the form of rows and panels, what is chosen above the dashboard, rates and quantiles.
Does not know: which panels there are (``panels_callers``, ``panels_behind``, ``panels_inside``),
how Grafana wants any of it (``dashboard``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["timeseries", "stat", "state-timeline"]
#: Values with a name and a colour of their own, for what is a state and no number.
State = tuple[tuple[int, str, str], ...]

#: What is chosen above the dashboard.
GATEWAYS: Final = 'namespace=~"$namespace", job=~"$job"'
PIPELINES: Final = f'{GATEWAYS}, pipeline=~"$pipeline"'
UPSTREAMS: Final = f'{GATEWAYS}, upstream=~"$upstream"'
#: Calls on the gateway itself, such as Prometheus' own, are none that anybody makes for its sake.
CALLS: Final = f'{PIPELINES}, mode!="other"'
STREAMS: Final = f'{PIPELINES}, mode=~"execute_stream|query_stream"'
ANSWERS: Final = f'{PIPELINES}, mode!~"other|execute_stream|query_stream|watch"'
FAILED: Final = 'outcome=~"upstream_error|timeout|shut_down|internal"'
SERVED: Final = 'outcome=~"complete|upstream_error|timeout|shut_down|internal"'

YES_NO: Final = ((0, "no", "red"), (1, "yes", "green"))
BREAKER: Final = ((0, "closed", "green"), (1, "half open", "yellow"), (2, "open", "red"))
LOADED: Final = ((0, "refused", "red"), (1, "loaded", "green"))


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. ``asks``: expressions, and how their series are called.

    ``bad``: from which value on it is orange and red, or below which where the first is the larger.
    ``stacked``: the series add up to something."""

    title: str
    description: str
    unit: str
    asks: tuple[tuple[str, str], ...]
    kind: Kind = "timeseries"
    width: int = 8
    bad: tuple[float, float] | None = None
    states: State = ()
    stacked: bool = False
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def rate(counter: str, chosen: str, *by: str) -> str:
    """How many a second, for each value of the labels ``by``."""
    return f"sum by ({', '.join(by)}) (rate({counter}{{{chosen}}}[$__rate_interval]))"


def seldom(counter: str, chosen: str, *by: str) -> str:
    """The same of what is 0 nearly always and has many series: only those that are not."""
    return f"{rate(counter, chosen, *by)} > 0"


def quantile(share: float, histogram: str, chosen: str, *by: str) -> str:
    """What so large a share of the observations stays below."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', chosen, *by, 'le')})"


def quantiles(histogram: str, chosen: str) -> tuple[tuple[str, str], ...]:
    """What half, nineteen of twenty and ninety-nine of a hundred stay below."""
    return tuple(
        (quantile(share, histogram, chosen), f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99)
    )
