"""Draws the dashboard as a page of its own, from a Prometheus: to look at it without a Grafana.

``python -m deploy.watch.preview http://127.0.0.1:9090 dashboard.html [MINUTES]`` puts every panel's
questions to it, with All chosen everywhere, and lays out what comes back as Grafana would: where
panels lie, how long their legends get, which units they have. It is no picture of Grafana itself.

Owns: the page.
Does not know: what is asked, or why (``dashboard``).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

from deploy.watch.dashboard import dashboard

#: One line of a chart: what it is called, and its points as Unix seconds and values.
Line = tuple[str, list[tuple[float, float]]]

_COLOURS: Final = [
    "#73bf69",
    "#f2cc0c",
    "#5794f2",
    "#ff9830",
    "#e02f44",
    "#b877d9",
    "#37872d",
    "#8ab8ff",
    "#fade2a",
]
_NAMED: Final = {"green": "#73bf69", "yellow": "#f2cc0c", "orange": "#ff9830", "red": "#e02f44"}
_POINTS: Final = 240
_PIXELS: Final = 38  # of one of the dashboard's rows
_STYLE: Final = f"""
body {{background:#111217;color:#ccccdc;font:12px sans-serif;margin:8px}}
main {{display:grid;grid-template-columns:repeat(24,1fr);grid-auto-rows:{_PIXELS}px;gap:6px}}
section {{background:#181b1f;border:1px solid #2c3235;overflow:hidden;padding:4px 8px}}
h2 {{font-size:13px;margin:0;font-weight:600}} h1 {{font-size:15px;margin:10px 0 0}}
table {{width:100%;border-collapse:collapse}} td {{padding:0 4px;white-space:nowrap}}
td.n {{text-align:right;color:#8e8e9a}} i {{display:inline-block;width:12px;height:3px;margin:3px}}
p.stat {{font-size:30px;margin:14px 0;text-align:center}} p.none {{color:#e02f44;font-size:16px}}
text {{fill:#8e8e9a;font-size:10px}}
"""


class Asked:
    """A Prometheus at ``url``, and the span of time that it is asked about: Unix seconds."""

    def __init__(self, url: str, minutes: float) -> None:
        self._url = url
        self.end = time.time()
        self.start = self.end - minutes * 60

    def lines(self, target: dict[str, Any]) -> list[Line]:
        """What one question of a panel comes to."""
        question = target["expr"].replace("$__rate_interval", "1m")
        for name in ("$namespace", "$job", "$pipeline", "$upstream"):
            question = question.replace(name, ".*")
        step = max(1.0, (self.end - self.start) / _POINTS)
        asked = {"query": question, "start": self.start, "end": self.end, "step": step}
        with urlopen(f"{self._url}/api/v1/query_range?{urlencode(asked)}") as answer:
            found = json.load(answer)["data"]["result"]
        return [
            (
                _called(target["legendFormat"], each["metric"]),
                [(at, float(value)) for at, value in each["values"] if value != "NaN"],
            )
            for each in found
        ]


def _called(legend: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value)
    return legend


def number(value: float, unit: str) -> str:
    """A value as somebody would read it: three digits, and the unit."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit in ("bytes", "Bps"):
        size, names = abs(value), ["B", "KiB", "MiB", "GiB"]
        while size >= 1024 and len(names) > 1:
            size, value = size / 1024, value / 1024
            names.pop(0)
        return f"{_digits(value)} {names[0]}{'/s' * (unit == 'Bps')}"
    if unit == "s":
        for limit, factor, name in ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (120, 1, "s")):
            if abs(value) < limit:
                return f"{value * factor:.3g} {name}"
        return f"{value / 60:.3g} min" if abs(value) < 7200 else f"{value / 3600:.3g} h"
    return _digits(value) + {"reqps": " req/s", "cps": " /s"}.get(unit, "")


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def page(asked: Asked) -> str:
    """The whole page."""
    made = "".join(_panel(panel, asked) for panel in dashboard()["panels"])
    return f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style><main>{made}</main>"


def _panel(panel: dict[str, Any], asked: Asked) -> str:
    at = panel["gridPos"]
    place = f"grid-column:{at['x'] + 1}/span {at['w']};grid-row:{at['y'] + 1}/span {at['h']}"
    title = escape(panel["title"])
    if panel["type"] == "row":
        return f'<h1 style="{place}">{title}</h1>'
    lines = [line for target in panel["targets"] for line in asked.lines(target)]
    draw = {"stat": _stat, "timeseries": _chart, "state-timeline": _states}[panel["type"]]
    inside = draw(panel, lines, asked) if any(points for _, points in lines) else _NOTHING
    about = escape(panel["description"], quote=True)
    return f'<section style="{place}" title="{about}"><h2>{title}</h2>{inside}</section>'


_NOTHING: Final = "<p class=none>No data</p>"


def _stat(panel: dict[str, Any], lines: Sequence[Line], asked: Asked) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    value = lines[0][1][-1][1]
    colour = "green"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    if panel["options"]["colorMode"] == "none":
        colour = ""
    shown = number(value, defaults["unit"])
    return f'<p class=stat style="color:{_NAMED.get(colour, "inherit")}">{shown}</p>'


def _chart(panel: dict[str, Any], lines: Sequence[Line], asked: Asked) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    unit, width = defaults["unit"], panel["gridPos"]["w"] * 50 - 30
    rows = min(len(lines), 5)
    height = panel["gridPos"]["h"] * (_PIXELS + 6) - 60 - 16 * rows
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    drawn = _stacked(lines) if stacked else [points for _, points in lines]
    top = max((value for points in drawn for _, value in points), default=0.0) * 1.05 or 1.0
    shapes = [
        f"<text x=0 y={height * (1 - share) + 9:.0f}>{number(top * share, unit)}</text>"
        f'<path d="M0 {height * (1 - share):.0f}H{width}" stroke="#2c3235"/>'
        for share in (0, 0.5, 1)
    ]
    for place, points in enumerate(drawn):
        path = "L".join(
            f"{_x(at, asked, width):.1f} {height * (1 - value / top):.1f}" for at, value in points
        )
        if path:
            colour = _COLOURS[place % len(_COLOURS)]
            shapes.append(f'<path d="M{path}" stroke="{colour}" fill="none"/>')
    legend = "".join(
        f'<tr><td><i style="background:{_COLOURS[place % len(_COLOURS)]}"></i>{escape(name)}</td>'
        f"<td class=n>{number(points[-1][1], unit)}</td>"
        f"<td class=n>{number(max(value for _, value in points), unit)}</td></tr>"
        for place, (name, points) in enumerate(lines)
        if points
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="100%" height="{height}" '
        f'preserveAspectRatio="none">{"".join(shapes)}</svg><table>{legend}</table>'
    )


def _stacked(lines: Iterable[Line]) -> list[list[tuple[float, float]]]:
    below: dict[float, float] = {}
    found = []
    for _, points in lines:
        for at, value in points:
            below[at] = below.get(at, 0.0) + value
        found.append([(at, below[at]) for at, _ in points])
    return found


def _states(panel: dict[str, Any], lines: Sequence[Line], asked: Asked) -> str:
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    width = panel["gridPos"]["w"] * 62 - 160
    found = []
    for name, points in lines:
        bars = ""
        for (at, value), (until, _) in zip(points, [*points[1:], (asked.end, 0.0)], strict=True):
            state = mapping["options"].get(f"{value:.0f}", {"color": "", "text": "?"})
            left, right = _x(at, asked, width), _x(until, asked, width)
            colour = _NAMED.get(state["color"], "#888")
            bars += f'<rect x={left:.1f} width={right - left + 0.5:.1f} height=18 fill="{colour}"/>'
        last = mapping["options"].get(f"{points[-1][1]:.0f}", {"text": "?"})["text"]
        found.append(
            f"<tr><td>{escape(name)}</td><td><svg width={width} height=18>{bars}"
            f'<text x={width - 60} y=13 style="fill:#111">{last}</text></svg></td></tr>'
        )
    return f"<table>{''.join(found)}</table>"


def _x(at: float, asked: Asked, width: float) -> float:
    return (at - asked.start) / (asked.end - asked.start) * width


if __name__ == "__main__":
    _, prometheus, file, *minutes = sys.argv
    Path(file).write_text(page(Asked(prometheus, float(*minutes or ["30"]))))
