"""What is deployed to watch the gateway, held against a real Prometheus that scrapes one."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.watch.dashboard import DASHBOARD
from deploy.watch.preview import Asked, page
from deploy.watch.rules import ALERTS
from gateway.metrics import Process
from tests.support.prometheus import LABELS, Prometheus, prometheus
from tests.support.timing import PATIENCE_S
from tests.support.watched import watched

#: As Grafana puts them in where All is chosen, and nothing else was.
_CHOSEN = {
    "$__rate_interval": "1m",
    "$namespace": ".*",
    "$job": ".*",
    "$pipeline": ".*",
    "$upstream": ".*",
}
#: A comparison that filters, outside of what chooses series.
_COMPARED = re.compile(r"(?<=\s)(==|!=|<=|>=|<|>)(?=\s)")

#: What is known of this gateway: two workers, and all that happens to it.
_KNOWN = (
    'gateway_build_info{version!=""} == 1',  # of all processes one tells
    "time() - gateway_started_timestamp_seconds < 3600",
    *(f'gateway_memory_bytes{{process="{kind}"}} > 10e6' for kind in Process),
    "gateway_open_files_ratio > 0 < 1",
    "gateway_config_last_load_ok == 0",
    "gateway_execution_oldest_queued_seconds > 0",
    # What has not happened has been counted, too: a rate is to see it when it does.
    'gateway_requests_total{pipeline="doc", outcome="upstream_error"} == 0',
    'gateway_upstream_refused_total{upstream="docs", reason="queue"} == 0',
    'gateway_transform_errors_total{pipeline="doc", stage="observation_to_json"} == 0',
    'gateway_hook_deliveries_total{outcome="given_up"} == 0',
    "gateway_execution_recovered_total == 0",
)


def panels() -> Iterator[tuple[str, str]]:
    """Every question of the dashboard, by the title of who asks it."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel: {panel['title']}", _chosen(target["expr"])
    for note in dashboard["annotations"]["list"]:
        yield f"annotation: {note['name']}", _everything(_chosen(note["expr"]))


def rules() -> Iterator[tuple[str, str]]:
    """Every rule's question, without what makes an alert of it: that there be too much."""
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                yield f"record: {rule['record']}", rule["expr"]
            else:
                yield f"alert: {rule['alert']}", _everything(rule["expr"])


def _chosen(expression: str) -> str:
    for variable, value in _CHOSEN.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


def _everything(expression: str) -> str:
    """What the expression compares, whether it is so or not."""
    return _COMPARED.sub(r"\1 bool", re.sub(r"^absent\((.*)\)$", r"\1", expression))


async def _unanswered(server: Prometheus, asked: list[tuple[str, str]]) -> list[str]:
    return [name for name, question in asked if not await server.series(question)]


async def _exemplars(server: Prometheus) -> list[Any]:
    asked = {"query": "gateway_request_duration_seconds_bucket", "start": "0", "end": "9e9"}
    return list(await server.ask("query_exemplars", **asked))


async def _found_out(folder: Path) -> dict[str, Any]:
    async with watched(folder) as gateway, prometheus(folder, gateway.base) as server:
        asked = [*panels(), *rules(), *((known, known) for known in _KNOWN)]
        missing = [name for name, _ in asked]
        try:
            async with asyncio.timeout(PATIENCE_S):
                while missing:
                    await gateway.often()  # else there is no rate that is not 0
                    await asyncio.sleep(0.25)
                    left = [each for each in asked if each[0] in missing]
                    missing = await _unanswered(server, left)
        except TimeoutError:
            pass  # the tests say what is missing
        return {
            "missing": missing,
            "drawn": await asyncio.to_thread(page, Asked(server.url, minutes=1)),
            "targets": await server.ask("targets"),
            "rules": await server.ask("rules"),
            "pipelines": await server.ask("label/pipeline/values"),
            "exemplars": await _exemplars(server),
            "upstreams": await server.ask("label/upstream/values"),
        }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a Prometheus knows of a gateway to which everything has happened."""
    return asyncio.run(_found_out(tmp_path_factory.mktemp("watched")))


def test_every_panel_has_something_to_show_and_every_rule_something_to_judge(
    found: dict[str, Any],
) -> None:
    assert [each for each in found["missing"] if each not in _KNOWN] == []


def test_the_gateway_tells_how_it_is_and_counts_from_0(found: dict[str, Any]) -> None:
    assert [each for each in found["missing"] if each in _KNOWN] == []


def test_the_dashboard_can_be_looked_at_without_a_grafana(found: dict[str, Any]) -> None:
    titles = re.findall(r"<h[12][^>]*>([^<]*)</h[12]>", found["drawn"])
    made = json.loads(DASHBOARD.read_text())["panels"]
    assert titles == [escape(panel["title"]) for panel in made]
    assert re.search(r"<p class=stat [^>]*>[0-9.]+ req/s</p>", found["drawn"])


def test_the_gateway_is_scraped_without_a_complaint(found: dict[str, Any]) -> None:
    (target,) = found["targets"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_every_rule_is_evaluated_without_a_complaint(found: dict[str, Any]) -> None:
    evaluated = [rule for group in found["rules"]["groups"] for rule in group["rules"]]
    assert len(evaluated) == len(list(rules()))
    assert [rule["name"] for rule in evaluated if rule["health"] != "ok"] == []


def test_what_is_to_be_chosen_above_the_dashboard_is_there(found: dict[str, Any]) -> None:
    assert {"doc", "chat", "either", "report"} <= set(found["pipelines"])
    assert {"docs", "talk", "far", "silent"} <= set(found["upstreams"])
    (target,) = found["targets"]["activeTargets"]
    assert target["labels"].items() >= LABELS.items()


def test_a_bucket_leads_to_a_trace_of_what_fell_into_it(found: dict[str, Any]) -> None:
    labels = [each["labels"] for series in found["exemplars"] for each in series["exemplars"]]
    assert labels
    assert all(re.fullmatch("[0-9a-f]{32}", each["trace_id"]) for each in labels)
