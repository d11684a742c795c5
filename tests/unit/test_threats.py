"""The page on threats: each test, module and file that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "THREATS.md").read_text()
TESTS: dict[str, str] = {}
for _file in (ROOT / "tests").rglob("test_*.py"):
    TESTS[_file.name] = TESTS.get(_file.name, "") + _file.read_text()
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", TEXT)))
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.partition("## Attacks")[2].partition("## Fuzzing")[0].splitlines()
    if line.startswith("| ") and not line.startswith(("| **", "| attack"))
]


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_test_that_is_named_is_there(file: str, name: str) -> None:
    assert f"def {name or 'test_'}" in TESTS[file]


def test_every_attack_has_a_defence_an_outcome_and_a_test() -> None:
    assert len(ROWS) > 40
    for row in ROWS:
        assert len(row) == 5, row
        assert all(row[:4]), row
        assert "`test_" in row[3], row


def test_every_module_that_is_said_to_defend_is_there() -> None:
    modules = {
        name.removesuffix(".py")
        for file in (ROOT / "gateway").rglob("*.py")
        for name in (file.name, str(file.relative_to(ROOT / "gateway")))
    }
    for row in ROWS:
        for name in re.findall(r"`([a-z_0-9/]+)`", row[1]):
            known = name in modules or (ROOT / "gateway" / name).is_dir()
            assert known or name in ("limits", "tls", "kubernetes/"), name
