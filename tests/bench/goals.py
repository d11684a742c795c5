"""What the figures are to be: each line of the goal, as a ratio of measures of the same rounds.

Owns: the lines, their targets, how they follow from what was measured.
Does not know: how anything is measured, or shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from tests.bench.measures import Measure, Results

Figures = list[float] | None


@dataclass(frozen=True, slots=True)
class Goal:
    """One line. ``most``: the figure may be at most ``target``; else it must be at least that."""

    what: str
    target: float
    figures: Callable[[Results], Figures]
    unit: str = "×"
    most: bool = True

    def met(self, figures: list[float]) -> bool:
        """Whether the median is as it should be."""
        found = median(figures)
        return found <= self.target if self.most else found >= self.target


def _values(results: Results, scenario: str, case: str, peer: str, unit: str = "µs") -> Figures:
    found = results.find(scenario, case, peer, unit)
    return found.values if found else None


def _ratio(over: Figures, under: Figures) -> Figures:
    if over is None or under is None:
        return None
    return [a / b for a, b in zip(over, under, strict=True)]


def _of(
    scenario: str,
    over: tuple[str, str],
    under: tuple[str, str],
    unit: str = "µs",
) -> Callable[[Results], Figures]:
    """``over`` as a multiple of ``under``, each a case and a peer."""

    def figures(results: Results) -> Figures:
        return _ratio(
            _values(results, scenario, *over, unit), _values(results, scenario, *under, unit)
        )

    return figures


def _itself(scenario: str, case: str, unit: str) -> Callable[[Results], Figures]:
    return lambda results: _values(results, scenario, case, "gateway", unit)


def _transformed(size: str) -> Callable[[Results], Figures]:
    """The call with its transform, over the call without and the engine by itself."""

    def figures(results: Results) -> Figures:
        plain = _values(results, "jsonata", f"{size}, as it is", "gateway")
        engine = _values(results, "jsonata", f"{size}, transform", "engine alone")
        whole = _values(results, "jsonata", f"{size}, transform", "gateway")
        if plain is None or engine is None or whole is None:
            return None
        return [w / (p + e) for w, p, e in zip(whole, plain, engine, strict=True)]

    return figures


def _a_second(case: str) -> Callable[[Results], Figures]:
    """Thousands of events in a second of CPU."""

    def figures(results: Results) -> Figures:
        costs = _values(results, "sse-full-speed", case, "gateway")
        return [1000 / cost for cost in costs] if costs else None

    return figures


def _later(results: Results) -> Figures:
    """By how much the 99th percentile is later than without a proxy, ms."""
    ours = _values(results, "sse-paced", "as it is", "gateway", "µs p99")
    direct = _values(results, "sse-paced", "as it is", "direct", "µs p99")
    if ours is None or direct is None:
        return None
    return [(a - b) / 1000 for a, b in zip(ours, direct, strict=True)]


def _most_open(results: Results) -> Measure | None:
    opened = [each for each in results.of("idle-streams") if each.unit == "KB each"]
    return opened[-1] if opened else None


def _kilobytes(results: Results) -> Figures:
    found = _most_open(results)
    return found.values if found else None


def _of_idle(unit: str) -> Callable[[Results], Figures]:
    return lambda results: next(
        (each.values for each in results.of("idle-streams") if each.unit == unit), None
    )


def _worst_media(unit: str) -> Callable[[Results], Figures]:
    """The greatest of the kinds of upstream, round by round."""

    def figures(results: Results) -> Figures:
        found = [m.values for m in results.of("media") if m.unit == unit and "to " in m.case]
        return [max(each) for each in zip(*found, strict=True)] or None

    return figures


def _workers(results: Results) -> Figures:
    """What workers of one gateway serve, over what as many gateways do that share nothing."""
    found = [each for each in results.of("workers") if each.unit == "calls/s of CPU"]
    if len(found) < 3:
        return None
    _, apart, together = found
    return _ratio(together.values, apart.values)


def series(results: Results, what: str, peer: str) -> list[tuple[int, Measure]]:
    """The measures of ``growth`` against ``what`` ("bytes", "events", "at once"), in order."""
    found = []
    for each in results.of("growth"):
        number, _, kind = each.case.partition(" ")
        if kind == what and each.peer == peer and each.unit == "µs":
            found.append((int(number), each))
    return sorted(found, key=lambda pair: pair[0])


def _straight(what: str) -> Callable[[Results], Figures]:
    """What one more costs in the upper half of the sizes, over what it costs in the lower."""

    def figures(results: Results) -> Figures:
        points = series(results, what, "gateway")
        if len(points) < 3:
            return None
        (low, first), (middle, second), (high, third) = points[0], points[-3], points[-1]
        return [
            ((c - b) / (high - middle)) / ((b - a) / (middle - low))
            for a, b, c in zip(first.values, second.values, third.values, strict=True)
        ]

    return figures


def _beside_others(place: int) -> Callable[[Results], Figures]:
    """The cost where much else is there, over the cost where it is not."""

    def figures(results: Results) -> Figures:
        found = [each for each in results.of("configured") if each.unit == "µs"]
        return _ratio(found[place].values, found[0].values) if len(found) > place else None

    return figures


def _accepted(store: str) -> Callable[[Results], Figures]:
    """Thousands of executeAsync calls accepted in a second of CPU."""

    def figures(results: Results) -> Figures:
        costs = _values(results, "executions", f"{store}: accepted", "gateway")
        return [1000 / cost for cost in costs] if costs else None

    return figures


_SMALL = ("small JSON", "gateway")
_PACED = ("as it is", "gateway")
_SAME = ("same dialect", "gateway")

GOALS = (
    Goal(
        "Same dialect, small JSON: CPU of a call, over Envoy's",
        1.25,
        _of("same-dialect", _SMALL, ("small JSON", "envoy")),
    ),
    Goal(
        "… over the bare aiohttp proxy's",
        0.5,
        _of("same-dialect", _SMALL, ("small JSON", "bare aiohttp")),
    ),
    Goal(
        "… LiteLLM's over ours",
        30,
        _of("same-dialect", ("small JSON", "LiteLLM"), _SMALL),
        most=False,
    ),
    Goal(
        "Cambrion in, Pupau upstream: over the same dialect",
        2,
        _of("dialect-changed", ("Cambrion in, Pupau upstream", "gateway"), _SAME),
    ),
    Goal(
        "Pupau in, Cambrion upstream: over the same dialect",
        2,
        _of("dialect-changed", ("Pupau in, Cambrion upstream", "gateway"), _SAME),
    ),
    Goal(
        "JSONata on a 25 KB observation: over the call without + the engine alone",
        1.25,
        _transformed("25 KB"),
    ),
    Goal(
        "JSONata on a 250 KB observation: over the call without + the engine alone",
        1.25,
        _transformed("250 KB"),
    ),
    *(
        Goal(
            f"JSONata on {size}: Node with jsonata-js over ours",
            25,
            _of("jsonata", (f"{size}, transform", "node"), (f"{size}, transform", "gateway")),
            most=False,
        )
        for size in ("25 KB", "250 KB")
    ),
    Goal(
        "SSE, a paced event: CPU over Envoy's",
        1.0,
        _of("sse-paced", _PACED, ("as it is", "envoy")),
    ),
    Goal(
        "SSE, a paced event with an event transform: CPU over Envoy's relay",
        1.2,
        _of("sse-paced", ("event transform", "gateway"), ("as it is", "envoy")),
    ),
    Goal(
        "SSE at full speed: thousands of events a second per core",
        150,
        _a_second("as it is"),
        unit="thousand/s",
        most=False,
    ),
    Goal(
        "SSE at full speed, with an event transform",
        120,
        _a_second("event transform"),
        unit="thousand/s",
        most=False,
    ),
    Goal("SSE, 4,000 events a second: added latency, 99th percentile", 1, _later, unit="ms"),
    Goal("An open idle stream: memory, with as many open as could be", 20, _kilobytes, unit="KB"),
    Goal(
        "Open idle streams at once in one worker",
        10_000,
        _of_idle("streams"),
        unit="streams",
        most=False,
    ),
    Goal(
        "… heartbeats that each of them gets, over those that are due",
        0.95,
        _of_idle("× due heartbeats"),
        most=False,
    ),
    Goal(
        "20 MB of media: the longest that another client waits",
        10,
        _worst_media("ms longest"),
        unit="ms",
    ),
    Goal("20 MB of media: memory, over its decoded size", 2.5, _worst_media("× its size")),
    Goal(
        "Triton over gRPC: CPU of an inference over that of tritonclient",
        1.4,
        _of("triton", ("one inference", "gateway"), ("one inference", "tritonclient")),
    ),
    *(
        Goal(
            f"executeAsync on {store}: thousands accepted a second per core",
            least,
            _accepted(store),
            unit="thousand/s",
            most=False,
        )
        for store, least in (("SQLite", 1), ("Redis", 2))
    ),
    Goal(
        "1,000 watchers of one execution: CPU of an event over that of 1,000 streams",
        1.0,
        _of("executions", ("1000 watchers of one run", "gateway"), ("1000 streams", "gateway")),
    ),
    Goal("2 workers: what they serve, over 2 gateways of one worker", 0.9, _workers, most=False),
    Goal(
        "A byte more: its cost in large answers over that in small ones", 1.25, _straight("bytes")
    ),
    Goal(
        "An event more: its cost in long streams over that in short ones",
        1.25,
        _straight("events"),
    ),
    *(
        Goal(f"{what}: over the cost without", 1.1, _beside_others(place))
        for place, what in enumerate(
            ("10,000 pipelines configured", "10,000 keys configured", "5,000 streams open"), 1
        )
    ),
)
