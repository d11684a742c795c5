"""The README says what there is: every key, metric, error and flag."""

from __future__ import annotations

import re

import pytest
import typer

from gateway.cli import app
from gateway.errors import STATUS, Code
from tests.support.reference import README, written

TEXT = README.read_text()


def test_its_generated_parts_are_those_that_the_code_gives() -> None:
    assert written(TEXT) == TEXT, "run: python -m tests.support.reference"


@pytest.mark.parametrize("code", Code)
def test_every_error_code_is_explained_with_its_status(code: Code) -> None:
    row = re.search(rf"^\| `{code}` \| ([^|]+) \|", TEXT, re.MULTILINE)
    assert row is not None
    assert str(STATUS[code]) in row[1]


def test_every_command_is_named() -> None:
    for command in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f"pipeline-gateway {command}" in TEXT
