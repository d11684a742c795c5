"""The whole demo, as ``make demo`` runs it: a real Triton, the simulated APIs, the gateway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.demo.ports import VARIABLES, is_free
from deploy.triton.serve import free_ports


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    ports = free_ports(len(VARIABLES))
    named = {
        variable: str(port) for (variable, _), port in zip(VARIABLES.values(), ports, strict=True)
    }
    return {**os.environ, **named, "DEMO_FOLDER": str(tmp_path), "ONCE": "1"}


def run_demo(environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.demo.run"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that were started with files of ``folder``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if str(folder) in line:
            found.append(line)
    return found


def assert_nothing_stays(environment: dict[str, str]) -> None:
    assert processes_of(Path(environment["DEMO_FOLDER"])) == []
    assert all(is_free(int(environment[variable])) for variable, _ in VARIABLES.values())


def test_the_demo_ends_by_itself_with_every_answer_right(environment: dict[str, str]) -> None:
    process = run_demo(environment)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "✓ Every answer was right." in output
    assert "✗" not in output
    assert output.count("✓ The summary and the checks took turns: true") == 2  # in each dialect
    assert "✓ The second one has answered: " in output
    assert "✓ Every event came, and none twice: true" in output
    assert "✓ Its result is there once: 1" in output
    assert_nothing_stays(environment)


def test_the_demo_ends_everything_when_it_is_terminated(environment: dict[str, str]) -> None:
    process = run_demo(environment)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("✓ Triton"):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert_nothing_stays(environment)
