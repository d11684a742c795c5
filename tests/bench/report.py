"""Tables, pictures and BENCHMARKS.md out of the raw results.

Run as ``python -m tests.bench.report``; ``make bench`` does so at its end.

Owns: what the report says, and its form.
Does not know: how anything was measured, but for what it tells of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

from tests.bench.goals import GOALS, Goal
from tests.bench.measures import Results, load
from tests.bench.processes import ROOT

REPORT = ROOT / "BENCHMARKS.md"
PLOTS = Path(__file__).parent / "plots"

_TITLES = {
    "same-dialect": "A small call in the upstream's own dialect",
    "dialect-changed": "A small call whose dialect is changed",
    "jsonata": "An observation transform",
    "sse-paced": "Streams of paced events",
    "sse-full-speed": "Streams at full speed",
    "idle-streams": "Open idle streams",
    "media": "Large media",
    "triton": "Triton over gRPC",
    "workers": "Workers",
    "configured": "What the cost must not grow with",
    "executions": "Executions",
    "growth": "What the cost grows with",
}

#: Scenarios of which the report also says how many calls there were in a second: of the others that
#: tells more of the load generator than of what was measured.
_RATED = frozenset({"same-dialect", "workers"})

_METHOD = """\
Written by `make bench` from `tests/bench/results/latest.json`; `make bench SCENARIO=name` measures
one scenario anew, `QUICK=1` looks at all of them in fewer and shorter rounds and writes nothing.

How it is measured: the proxy stands alone on one core, the load generator and the upstream on
another (on others, where there are more). What is compared takes turns, round after round, so that
whatever else happens on the machine happens to all of them; a ratio is taken within each round, and
the median of the rounds is given with their range. CPU is what the kernel charges to the process,
all its threads and children included. Every answer's status and length is checked, and the content
of the first on every connection. The gateway runs with keys, request IDs, bounds, its access log
and all its metrics; Envoy and nginx with their access logs and keep-alive both ways; the bare proxy
(`tests/bench/bare.py`) is twenty lines of aiohttp without a log; "own halves"
(`tests/bench/floor.py`) are the gateway's own server and client with nothing in between.
Microseconds depend on the machine and what else it does; the ratios are what to look at.
"""


def number(value: float) -> str:
    """Three digits, and as many as there are before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """The range, where there is one."""
    if len(values) == 1:
        return ""
    return f"{number(min(values))} to {number(max(values))}"


def verdict(goal: Goal, results: Results) -> tuple[str, str, str, str, str]:
    """A line of the table of goals."""
    target = f"{'at most' if goal.most else 'at least'} {number(goal.target)} {goal.unit}"
    figures = goal.figures(results)
    if figures is None:
        return (goal.what, target, "not measured", "", "")
    found = f"{number(median(figures))} {goal.unit}"
    return (goal.what, target, found, spread(figures), "met" if goal.met(figures) else "**missed**")


def lines(rows: Iterable[Sequence[str]], heads: Sequence[str]) -> Iterator[str]:
    """A table in Markdown."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def goals_table(results: Results) -> Iterator[str]:
    """Each line of the goal."""
    rows = [verdict(goal, results) for goal in GOALS]
    return lines(rows, ("goal", "target", "measured", "range", ""))


def scenario_table(results: Results, scenario: str) -> Iterator[str]:
    """Everything that was measured in one scenario."""
    rows = [
        (each.case, each.peer, f"{number(each.median)} {each.unit}", spread(each.values))
        for each in results.of(scenario)
        if each.unit != "calls/s" or scenario in _RATED
    ]
    yield from lines(rows, ("", "", "median", "range"))
    for note in results.notes.get(scenario, []):
        yield ""
        yield note


def markdown(results: Results, plots: Sequence[Path]) -> str:
    """The whole of BENCHMARKS.md."""
    parts = ["# Benchmarks", "", _METHOD]
    parts += [*goals_table(results), "", "Measured on:", ""]
    parts += [f"- {name}: {value}" for name, value in results.machine.items()]
    took = sum(results.took_s.values())
    parts += [f"- all of it took {took / 60:.0f} minutes", ""]
    for path in plots:
        title = path.stem.replace("-", " ").capitalize()
        parts += [f"![{title}]({path.relative_to(ROOT)})", ""]
    for scenario, title in _TITLES.items():
        if scenario in results.took_s:
            parts += [f"## {title}", "", *scenario_table(results, scenario), ""]
    return "\n".join(parts).rstrip() + "\n"


def show(results: Results) -> None:
    """Print those of the goals for which there are figures."""
    for what, target, found, ranged, met in (verdict(goal, results) for goal in GOALS):
        if met:
            print(f"{what:76} {target:>24} {found:>18}  {met.strip('*'):7} {ranged}")


def main() -> int:
    """Write it all. Returns the exit code."""
    # Drawing needs the extra; whoever only looks at tables does not.
    from tests.bench.plots import draw  # noqa: PLC0415

    results = load()
    if not results.measures:
        print("Nothing was measured yet; run make bench.", file=sys.stderr)
        return 1
    REPORT.write_text(markdown(results, draw(results, PLOTS)))
    show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
