"""The demo's child processes are watched, and none of them outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.demo.children import ChildFailedError, start_child

SLEEP = "import time; time.sleep(600)"
#: Starts a sleeper of its own, says its process ID, and ignores being asked to end.
STUBBORN_PARENT = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    f"print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True)\n"
    "time.sleep(600)\n"
)


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, "it did not happen within 20 s"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_stopping_a_child_ends_what_it_started_as_well(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    child = start_child("child", [sys.executable, "-c", STUBBORN_PARENT], log)
    wait_until(lambda: log.read_text().endswith("\n"))
    grandchild = int(log.read_text())
    child.check()
    assert is_alive(grandchild)
    child.stop()
    assert child.process.returncode is not None
    wait_until(lambda: not is_alive(grandchild))
    child.stop()


def test_a_child_that_died_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('first'); raise SystemExit('no such model')"]
    child = start_child("The server", command, tmp_path / "server.log")
    child.process.wait(20)
    with pytest.raises(ChildFailedError, match=r"(?s)The server.*status 1.*first.*no such model"):
        child.check()
    child.stop()


def test_waiting_for_a_child_that_dies_ends_at_once(tmp_path: Path) -> None:
    child = start_child("The server", [sys.executable, "-c", ""], tmp_path / "server.log")
    with pytest.raises(ChildFailedError, match=r"status 0.*is empty"):
        child.wait_until_answering("http://127.0.0.1:9/", 600)
    child.stop()


def test_waiting_for_a_child_that_never_answers_ends_with_the_limit(tmp_path: Path) -> None:
    child = start_child("The server", [sys.executable, "-c", SLEEP], tmp_path / "server.log")
    with pytest.raises(ChildFailedError, match=r"answered nothing .* for 0\.2 s"):
        child.wait_until_answering("http://127.0.0.1:9/", 0.2)
    child.stop()


def test_a_child_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    starter_code = (
        "import pathlib, sys, time\n"
        "from deploy.demo.children import start_child\n"
        f"child = start_child('c', [sys.executable, '-c', {SLEEP!r}],"
        f" pathlib.Path({str(tmp_path / 'child.log')!r}))\n"
        "print(child.process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter_code], stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        # Wait until the child has become the sleeper, so that it is the kernel that ends it.
        wait_until(lambda: b"prctl" not in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(starter.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
