"""What is deployed to watch the gateway, held against itself and against the gateway's code."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.watch import dashboard
from deploy.watch.rules import ALERTS
from gateway.config import reference
from gateway.metrics import Metrics
from gateway.sampling import families
from tests.support.prometheus import promtool

ROOT = Path(__file__).parents[2]
WATCH = ALERTS.parent
RUNBOOK = WATCH / "RUNBOOK.md"
TESTS = WATCH / "alerts_test.yaml"
FILES = [ALERTS, TESTS, RUNBOOK, dashboard.DASHBOARD]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def panels() -> list[dict[str, Any]]:
    made = dashboard.dashboard()["panels"]
    return [panel for panel in made if panel["type"] != "row"]


def test_the_dashboard_is_the_one_that_is_generated() -> None:
    text = dashboard.DASHBOARD.read_text()
    assert text == dashboard.written(), "run: python -m deploy.watch.dashboard"
    numbers = [panel["id"] for panel in json.loads(text)["panels"]]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_what_is_good_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert len(panel["description"].split()) >= 8
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    assert all(target["legendFormat"] for target in panel["targets"])


def test_panels_fill_each_line_and_cover_none() -> None:
    for one, other in combinations([panel["gridPos"] for panel in panels()], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y
    lines: dict[int, int] = {}
    for panel in panels():
        lines[panel["gridPos"]["y"]] = lines.get(panel["gridPos"]["y"], 0) + panel["gridPos"]["w"]
    assert set(lines.values()) == {24}


def test_each_alert_fires_where_it_is_to_and_not_where_it_is_not() -> None:
    done = subprocess.run(
        [promtool(), "test", "rules", TESTS], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    shown: dict[str, set[bool]] = {}
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for each in test["alert_rule_test"]:
            shown.setdefault(each["alertname"], set()).add(bool(each.get("exp_alerts")))
    assert shown == {alert["alert"]: {True, False} for alert in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_how_urgent_it_is_and_where_it_is_written_what_to_do(
    alert: dict[str, Any],
) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    path, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert ROOT / path == RUNBOOK
    assert anchor == alert["alert"].lower()
    section = RUNBOOK.read_text().split(f"\n## {alert['alert']}\n")[1].split("\n## ")[0]
    assert section.lstrip().startswith(f"`{alert['labels']['severity']}` · ")
    for part in ("**Look", "**Do", "**Over when:**"):
        assert part in section


def test_the_runbook_has_a_heading_for_each_alert_and_for_nothing_else() -> None:
    text = RUNBOOK.read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == [alert["alert"] for alert in alerts()]
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= {each.lower() for each in headings}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_only_metrics_that_there_are_are_spoken_of(file: Path) -> None:
    known = set()
    for family in families(Metrics(CollectorRegistry())):
        endings = ("", "_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        known |= {family.name + ending for ending in endings}
    recorded = {"gateway_requests_served", "gateway_request_failures"}
    assert set(re.findall(r"\bgateway_[a-z_]+", file.read_text())) <= known | recorded


def test_the_runbook_quotes_the_log_and_the_configuration_as_they_are() -> None:
    text = RUNBOOK.read_text()
    code = "".join(path.read_text() for path in (ROOT / "gateway").rglob("*.py"))
    for event in re.findall(r'`"([a-z][^"`]*)"`', text):
        assert f'"{event}' in code, event
    keys = [re.sub(r"<[^>]*>|\[\]", "*", each.path) for each in reference()]
    sections = {key.split(".")[-2] for key in keys if "." in key}
    for section, key in re.findall(r"`([a-z_]+)\.([a-z_]+)`", text):
        if section in sections:
            assert any(each.endswith(f"{section}.{key}") for each in keys), (section, key)
