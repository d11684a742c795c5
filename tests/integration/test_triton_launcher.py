"""Starting a real Triton: ready when it says so, a reason when it is not, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from deploy.triton.serve import TritonNotStarted, TritonServer, free_ports, start_triton
from tests.triton_server import ROOT, TEST_MODELS

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def one_model(tmp_path: Path) -> Path:
    """A repository with one quick model."""
    repository = tmp_path / "models"
    repository.mkdir()
    (repository / "echo").symlink_to(TEST_MODELS / "echo")
    return repository


def group_is_gone(pid: int, *, within_s: float = 20) -> bool:
    """Whether no process of the group of ``pid`` is left, or soon will be."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def status_of(url: str) -> int:
    with urllib.request.urlopen(url, timeout=5) as response:
        return int(response.status)


def test_a_stopped_server_leaves_no_process_and_no_shared_memory(
    one_model: Path, tmp_path: Path
) -> None:
    with start_triton(one_model, tmp_path / "work") as server:
        assert status_of(f"{server.http_url}/v2/models/echo/ready") == 200
        assert status_of(server.metrics_url) == 200
        assert server.grpc_url == f"grpc://127.0.0.1:{server.grpc_port}"
        assert list(SHARED_MEMORY.glob(f"{server.shm_prefix}*"))
    assert group_is_gone(server.process.pid)
    assert not list(SHARED_MEMORY.glob(f"{server.shm_prefix}*"))
    server.stop()  # a second time is no error


def test_a_server_that_does_not_end_by_itself_is_killed(one_model: Path, tmp_path: Path) -> None:
    server = start_triton(one_model, tmp_path / "work")
    os.killpg(server.process.pid, signal.SIGSTOP)  # as if it hung
    patient = TritonServer(
        server.process, server.http_port, server.grpc_port, server.metrics_port, server.log,
        server.shm_prefix, stop_s=0.5,
    )  # fmt: skip
    patient.stop()
    assert group_is_gone(server.process.pid)
    assert not list(SHARED_MEMORY.glob(f"{server.shm_prefix}*"))


def test_a_model_that_cannot_be_loaded_is_named_with_its_error(tmp_path: Path) -> None:
    model = tmp_path / "models" / "broken"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text((TEST_MODELS / "echo" / "config.pbtxt").read_text())
    (model / "1" / "model.py").write_text("raise RuntimeError('no such network')\n")
    with pytest.raises(TritonNotStarted) as caught:
        start_triton(tmp_path / "models", tmp_path / "work")
    assert "Triton ended with status" in str(caught.value)
    assert "no such network" in (tmp_path / "work" / "triton.log").read_text()
    assert str(tmp_path / "work" / "triton.log") in str(caught.value)


def test_a_server_that_is_not_ready_in_time_is_ended(one_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TritonNotStarted, match=r"was not ready after 0 s; its log .* is empty"):
        start_triton(one_model, tmp_path / "work", ready_s=0)


def test_a_repository_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TritonNotStarted, match=r"there is no model repository at .*nowhere"):
        start_triton(tmp_path / "nowhere", tmp_path / "work")


def test_free_ports_are_all_different() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20


def test_a_server_ends_when_its_starter_is_killed(one_model: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from deploy.triton.serve import start_triton\n"
        "server = start_triton(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print(server.process.pid, server.shm_prefix, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(one_model), str(tmp_path / "work")],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as starter:  # fmt: skip
        assert starter.stdout is not None
        pid, prefix = starter.stdout.readline().split()
        starter.kill()
    assert group_is_gone(int(pid))
    for leftover in SHARED_MEMORY.glob(f"{prefix}*"):
        leftover.unlink()  # a killed starter cannot; the next test must not find it


def test_as_a_command_it_serves_until_it_is_interrupted(one_model: Path, tmp_path: Path) -> None:
    ports = free_ports(3)
    command = [
        sys.executable, "-m", "deploy.triton.serve", str(one_model),
        "--http-port", str(ports[0]), "--grpc-port", str(ports[1]),
        "--metrics-port", str(ports[2]), "--work-dir", str(tmp_path / "work"),
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line.startswith(f"ready: grpc://127.0.0.1:{ports[1]}  http://127.0.0.1:{ports[0]}")
        assert status_of(f"http://127.0.0.1:{ports[0]}/v2/health/ready") == 200
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
    assert not list(SHARED_MEMORY.glob(f"triton_{running.pid}_*"))


def test_as_a_command_it_fails_with_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.triton.serve", str(tmp_path / "no")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"there is no model repository at {tmp_path / 'no'}\n"
