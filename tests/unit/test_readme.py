"""The README says what there is: every key, metric, error and flag."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.compiled import compile_config
from gateway.config import load
from gateway.errors import STATUS, Code
from tests.support.reference import README, all_commands, written

TEXT = README.read_text()


def test_its_generated_parts_are_those_that_the_code_gives() -> None:
    assert written(TEXT) == TEXT, "run: python -m tests.support.reference"


@pytest.mark.parametrize("code", Code)
def test_every_error_code_is_explained_with_its_status(code: Code) -> None:
    row = re.search(rf"^\| `{code}` \| ([^|]+) \|", TEXT, re.MULTILINE)
    assert row is not None
    assert str(STATUS[code]) in row[1]


def test_every_command_is_named() -> None:
    for name, _ in all_commands():
        assert f"pipeline-gateway {name}" in TEXT


UPSTREAMS = """\
upstreams:
  triton: {kind: triton, url: "grpc://127.0.0.1:8001"}
  cambrion: {kind: cambrion, url: "http://127.0.0.1:8091/v1"}
  pupau: {kind: pupau, url: "http://127.0.0.1:8092"}
  pupau-eu: {kind: pupau, url: "http://127.0.0.1:8093"}
"""


def snippets() -> list[str]:
    """The configurations that README.md shows, each made whole."""
    whole = []
    for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL):
        if "pipelines:" not in block:
            block = f"pipelines:\n{block}"  # noqa: PLW2901
        if "upstreams:\n" not in block:
            block = UPSTREAMS + block  # noqa: PLW2901
        whole.append(re.sub(r"sha256: \"…\"", f'sha256: "{"0" * 64}"', block))
    return whole


@pytest.mark.parametrize("text", snippets())
def test_every_configuration_that_is_shown_can_be_used(text: str, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    compile_config(load(path, {"PUPAU_API_KEY": "secret"}))
