"""Pictures of what was measured.

Owns: which ones there are, and how they look.
Does not know: where the report puts them.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from tests.bench.goals import series
from tests.bench.measures import Results

COLOURS = {
    "gateway": "#c2410c",
    "envoy": "#1d4ed8",
    "nginx": "#0f766e",
    "bare aiohttp": "#64748b",
    "node": "#a16207",
    "LiteLLM": "#7e22ce",
}
_AXES = {
    "bytes": ("bytes of the answer", "body-size"),
    "events": ("events of the stream, at full speed", "events"),
    "at once": ("connections at one time", "concurrency"),
}


def _canvas(height: float = 4.0) -> tuple[Any, Any]:
    """An empty figure and its axes. Only the extra ``bench`` brings what draws."""
    importlib.import_module("matplotlib").use("Agg")  # there may be no screen
    figure, axes = importlib.import_module("matplotlib.pyplot").subplots(figsize=(8, height))
    return figure, axes


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw those for which there are measures, into ``folder``; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [_by_peer(results, folder / "cost-by-peer.png")]
    drawn += [
        _against(results, what, folder / f"cost-against-{_AXES[what][1]}.png") for what in _AXES
    ]
    drawn.append(_memory(results, folder / "memory-against-open-streams.png"))
    return [path for path in drawn if path is not None]


def _number(value: float, _: object = None) -> str:
    """As axes and bars have it; the second argument is for matplotlib."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _plain(axis: Any, ticks: list[float]) -> None:
    """Ticks on a logarithmic axis, as plain numbers."""
    axis.set_major_locator(importlib.import_module("matplotlib.ticker").FixedLocator(ticks))
    axis.set_major_formatter(_number)
    axis.set_minor_locator(importlib.import_module("matplotlib.ticker").NullLocator())


def _finish(figure: Any, axes: Any, path: Path) -> Path:
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    # Without the date and the program's version the same figures give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _by_peer(results: Results, path: Path) -> Path | None:
    bars = [
        (f"{each.peer}: {what}", each)
        for scenario, case, what in (
            ("same-dialect", "small JSON", "small JSON call"),
            ("sse-paced", "as it is", "paced event"),
            ("sse-paced", "event transform", "paced event, transformed"),
        )
        for each in results.of(scenario)
        if each.case == case and each.unit == "µs" and each.peer != "direct"
    ]
    if not bars:
        return None
    figure, axes = _canvas(0.36 * len(bars) + 1.2)
    for place, (name, each) in enumerate(reversed(bars)):
        spread = [[each.median - min(each.values)], [max(each.values) - each.median]]
        axes.barh(place, each.median, xerr=spread, color=COLOURS.get(each.peer), ecolor="#334155")
        axes.text(max(each.values) * 1.06, place, _number(each.median), va="center", fontsize=8)
        axes.text(1.05, place, name, va="center", fontsize=8, color="white", weight="bold")
    axes.set_yticks([])
    axes.set_xscale("log")
    axes.set_xlim(left=1)
    axes.xaxis.set_major_formatter(_number)
    axes.set_xlabel("µs of CPU each, median and range of the rounds (logarithmic)")
    return _finish(figure, axes, path)


def _against(results: Results, what: str, path: Path) -> Path | None:
    if not series(results, what, "gateway"):
        return None
    figure, axes = _canvas()
    for peer in ("gateway", "envoy", "bare aiohttp"):
        points = series(results, what, peer)
        sizes = [size for size, _ in points]
        axes.plot(sizes, [m.median for _, m in points], "o-", label=peer, color=COLOURS[peer])
        low, high = [min(m.values) for _, m in points], [max(m.values) for _, m in points]
        axes.fill_between(sizes, low, high, color=COLOURS[peer], alpha=0.15)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain(axes.xaxis, [size for size, _ in series(results, what, "gateway")])
    low, high = axes.get_ylim()
    _plain(axes.yaxis, [n * 10**e for e in range(7) for n in (1, 2, 5) if low < n * 10**e < high])
    axes.set_xlabel(_AXES[what][0])
    axes.set_ylabel("µs of CPU a call")
    axes.legend(frameon=False)
    axes.grid(visible=True, alpha=0.25)
    return _finish(figure, axes, path)


def _memory(results: Results, path: Path) -> Path | None:
    points = [
        (count, count * each.median / 1000)
        for each in results.of("idle-streams")
        if each.unit == "KB each"
        for count in [int(each.case.split()[0])]
    ]
    if not points:
        return None
    figure, axes = _canvas()
    counts, used = zip(*points, strict=True)
    axes.plot((0, *counts), (0, *used), "o-", color=COLOURS["gateway"], label="gateway")
    most = max(counts)
    axes.plot((0, most), (0, most * 20 / 1000), "--", color="#64748b", label="20 KB each")
    axes.set_xlabel("open idle streams, each with its heartbeats")
    axes.set_ylabel("MB more than without")
    axes.legend(frameon=False)
    axes.grid(visible=True, alpha=0.25)
    return _finish(figure, axes, path)
