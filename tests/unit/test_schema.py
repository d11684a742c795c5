"""config/gateway.schema.json beside what it is for: an editor that underlines what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "config" / "gateway.schema.json"
MODELINE = re.compile(r"# yaml-language-server: \$schema=(\S+)")


def configurations() -> list[Path]:
    """Every file below config/ and deploy/ that configures a gateway."""
    files = [path for folder in ("config", "deploy") for path in (ROOT / folder).rglob("*.yaml")]
    return sorted(
        path for path in files if re.search("^pipelines:", path.read_text(), re.MULTILINE)
    )


def wrong(text: str) -> list[str]:
    """The keys that an editor would underline in this file."""
    errors = Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(yaml.safe_load(text))
    return sorted({".".join(map(str, error.path)) for error in errors})


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize(
    "path", configurations(), ids=[str(path.relative_to(ROOT)) for path in configurations()]
)
def test_every_configuration_that_comes_along_is_right_for_an_editor(path: Path) -> None:
    assert wrong(path.read_text()) == []


def test_the_modeline_of_a_configuration_leads_an_editor_to_the_schema() -> None:
    with_one = [path for path in configurations() if MODELINE.search(path.read_text())]
    assert ROOT / "config" / "gateway.yaml" in with_one
    for path in with_one:
        first = path.read_text().splitlines()[0]
        named = MODELINE.fullmatch(first)
        assert named is not None, "editors look at the beginning"
        assert (path.parent / named[1]).resolve() == SCHEMA


LEAST = """\
upstreams: {api: {kind: pupau, url: "http://api"}}
pipelines: {p: {upstream: api}}
"""


def test_the_least_configuration_is_right() -> None:
    assert wrong(LEAST) == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("pipelines: {}", ""),
        (LEAST + "serve: {port: 1}", ""),
        (LEAST + "server: {prot: 1}", "server"),
        (LEAST + "server: {port: 65536}", "server.port"),
        (LEAST + "server: {port: high}", "server.port"),
        (LEAST + "server: {watch: perhaps}", "server.watch"),
        (LEAST + "transforms: {engine: jsonata-js}", "transforms.engine"),
        (LEAST + "limits: {when_away: maybe}", "limits.when_away"),
        (LEAST.replace("kind: pupau", "kind: soap"), "upstreams.api"),
        (LEAST.replace("kind: pupau", "kind: pupau, check_every_s: 1"), "upstreams.api"),
        (LEAST.replace("api: {kind", '"an api": {kind'), "upstreams"),
        (LEAST.replace("upstream: api", "upstream: api, policy: fastest"), "pipelines.p.policy"),
        (LEAST.replace("upstream: api", "layers: [{on_error: stop, actors: []}]"),
         "pipelines.p.layers.0"),
        (LEAST.replace("upstream: api", "transform: {event: {fiel: x}}"),
         "pipelines.p.transform.event"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_underlined(text: str, where: str) -> None:
    assert wrong(text) == [where]


@pytest.mark.parametrize(
    "section",
    [
        "server: {port: '${PORT:-8080}', watch: '${WATCH}', workers: '${WORKERS}'}",
        "transforms: {engine: '${ENGINE:-jsonatapy}', time_s: '${SECONDS}'}",
        "keys: [{name: '${NAME}', sha256: '${HASH}', pipelines: ['${PIPELINE}']}]",
        "limits: {when_away: '${AWAY}'}",
    ],
)
def test_a_variable_may_stand_for_any_value(section: str) -> None:
    assert wrong(LEAST + section) == []


def test_short_forms_are_right_as_well() -> None:
    layers: dict[str, Any] = {
        "layers": [[{"actor": "a", "upstreams": ["api", {"upstream": "api"}]}]],
    }
    assert wrong(LEAST.replace("{upstream: api}", json.dumps(layers))) == []
