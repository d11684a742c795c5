"""Writes dashboard.json, for Grafana 10 and later: ``python -m deploy.watch.dashboard``.

Owns: where panels lie, and all that Grafana wants to know beside what is asked.
Does not know: what is asked (``panels_callers``, ``panels_behind``, ``panels_inside``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final

from deploy.watch.panels import GATEWAYS, Panel, Row
from deploy.watch.panels_behind import ACTORS, BEHIND
from deploy.watch.panels_callers import AT_A_GLANCE, CALLERS, TRAFFIC
from deploy.watch.panels_inside import EXECUTIONS, ITSELF

DASHBOARD: Final = Path(__file__).parent / "dashboard.json"
ROWS: Final = (AT_A_GLANCE, CALLERS, TRAFFIC, BEHIND, ACTORS, EXECUTIONS, ITSELF)
#: When another configuration was taken, as a line across all panels.
LOADED: Final = f"changes(gateway_config_loaded_timestamp_seconds{{{GATEWAYS}}}[$__rate_interval])"

_WIDTH: Final = 24
_HEIGHTS: Final = {"stat": 4, "timeseries": 8, "state-timeline": 6}
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
#: Buckets that lead to traces of what fell into them.
_TRACED: Final = re.compile(r"gateway_(request_duration|first_event|overhead)_seconds_bucket")
#: What is chosen above the dashboard: each by what was chosen before it.
_VARIABLES: Final = (
    ("namespace", "gateway_build_info", "namespace"),
    ("job", 'gateway_build_info{namespace=~"$namespace"}', "job"),
    ("pipeline", f"gateway_requests_total{{{GATEWAYS}}}", "pipeline"),
    ("upstream", f"gateway_upstream_breaker{{{GATEWAYS}}}", "upstream"),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "title": "Pipeline gateway",
        "uid": "pipeline-gateway",
        "description": "Written by `python -m deploy.watch.dashboard`: change the panels there.",
        "tags": ["pipeline-gateway"],
        "schemaVersion": 38,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [_loads()]},
        "templating": {"list": [_source(), *(_variable(*each) for each in _VARIABLES)]},
        "panels": list(_panels()),
    }


def _panels() -> Iterator[dict[str, Any]]:
    numbers, top = count(1), 0
    for row in ROWS:
        yield _heading(row, next(numbers), top)
        top += 1
        for line in _lines(row):
            # One height for all beside each other: Grafana moves up what lies below a gap.
            height, left = max(_HEIGHTS[panel.kind] for panel in line), 0
            for panel in line:
                where = {"x": left, "y": top, "w": panel.width, "h": height}
                yield _panel(panel, next(numbers), where)
                left += panel.width
            top += height


def _lines(row: Row) -> list[list[Panel]]:
    """The panels of a row, as many beside each other as there is room for."""
    lines: list[list[Panel]] = [[]]
    for panel in row.panels:
        if sum(each.width for each in lines[-1]) + panel.width > _WIDTH:
            lines.append([])
        lines[-1].append(panel)
    return lines


def _heading(row: Row, number: int, top: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "row",
        "title": row.title,
        "collapsed": False,
        "gridPos": {"x": 0, "y": top, "w": _WIDTH, "h": 1},
        "panels": [],
    }


def _panel(panel: Panel, number: int, where: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": where,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": called,
                "instant": panel.kind == "stat",
                "range": panel.kind != "stat",
                "exemplar": panel.kind != "stat" and _TRACED.search(expression) is not None,
            }
            for place, (expression, called) in enumerate(panel.asks)
        ],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    found: dict[str, Any] = {"unit": panel.unit, "thresholds": _thresholds(panel)}
    if panel.kind == "stat":
        return found | {"noValue": "–"}
    if panel.states:
        options = {
            str(value): {"text": text, "color": colour, "index": place}
            for place, (value, text, colour) in enumerate(panel.states)
        }
        return found | {
            "mappings": [{"type": "value", "options": options}],
            "custom": {"lineWidth": 0, "fillOpacity": 80},
        }
    found["min"] = 0
    if panel.most is not None:
        found["max"] = panel.most
    return found | {
        "custom": {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 25 if panel.stacked else 0,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.bad else "off"},
        }
    }


def _thresholds(panel: Panel) -> dict[str, Any]:
    """Green, and then worse upwards; or red, and then better, where little is bad."""
    steps: list[dict[str, Any]] = [{"value": None, "color": "green"}]
    if panel.bad is not None and panel.bad[0] < panel.bad[1]:
        orange, red = panel.bad
        steps += [{"value": orange, "color": "orange"}, {"value": red, "color": "red"}]
    elif panel.bad is not None:
        green, orange = panel.bad
        steps = [
            {"value": None, "color": "red"},
            {"value": orange, "color": "orange"},
            {"value": green, "color": "green"},
        ]
    return {"mode": "absolute", "steps": steps}


def _options(panel: Panel) -> dict[str, Any]:
    match panel.kind:
        case "stat":
            return {
                "colorMode": "value" if panel.bad else "none",
                "graphMode": "none",
                "justifyMode": "auto",
                "textMode": "value",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            }
        case "state-timeline":
            return {
                "mergeValues": True,
                "showValue": "auto",
                "rowHeight": 0.8,
                "legend": {"showLegend": False},
                "tooltip": {"mode": "single"},
            }
        case _:
            return {
                "legend": {
                    "showLegend": True,
                    "displayMode": "table",
                    "placement": "bottom",
                    "calcs": ["lastNotNull", "max"],
                },
                "tooltip": {"mode": "multi", "sort": "desc"},
            }


def _loads() -> dict[str, Any]:
    return {
        "name": "Configuration loaded",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": f"{LOADED} > 0",
        "titleFormat": "Configuration loaded",
        "textFormat": "{{instance}}",
        "step": "60s",
    }


def _source() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }


def _variable(name: str, series: str, label: str) -> dict[str, Any]:
    query = f"label_values({series}, {label})"
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "multi": True,
        "includeAll": True,
        # A Prometheus outside of Kubernetes adds no namespace: then it is empty, and All is all.
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "refresh": 2,
        "sort": 1,
    }


def written() -> str:
    """The text of the file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(written())
