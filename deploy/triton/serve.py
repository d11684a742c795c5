"""Starts a real Triton Inference Server on the CPU, out of the ``nvidia-pytriton`` wheel.

Owns: where the wheel keeps its pieces, the environment they need, waiting until every model is
ready, and leaving nothing behind: no process, no shared memory.
Does not know: which models it serves, nor the gateway.

As a command: ``python -m deploy.triton.serve MODELS... [--http-port N] [--grpc-port N] …`` serves
until Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.tied import tied

HOST = "127.0.0.1"
READY_S = 120.0
STOP_S = 10.0
LOG_TAIL_BYTES = 4000


class TritonNotStarted(RuntimeError):
    """Triton cannot run here, or did not become ready. The message holds the end of its log."""


@dataclass
class TritonServer:
    """A running Triton. A context manager; leaving it stops the server, which is given ``stop_s``
    seconds to end in order."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    metrics_port: int
    log: Path
    shm_prefix: str
    stop_s: float = STOP_S
    _stopped: bool = field(default=False, repr=False)

    @property
    def http_url(self) -> str:
        """``http://`` address of the KServe v2 REST API."""
        return f"http://{HOST}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        """``grpc://`` address of the same over gRPC."""
        return f"grpc://{HOST}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """Address of Triton's own metrics."""
        return f"http://{HOST}:{self.metrics_port}/metrics"

    def stop(self) -> None:
        """End the server and its model processes. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(self.stop_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        # The models' processes share the server's group and go by themselves when it ends in
        # order; this is for when it did not.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for leftover in Path("/dev/shm").glob(f"{self.shm_prefix}*"):
            leftover.unlink(missing_ok=True)

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_ports(count: int) -> list[int]:
    """``count`` TCP ports of the loopback interface that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


def start_triton(
    models: Path | Sequence[Path],
    work_dir: Path,
    http_port: int | None = None,
    grpc_port: int | None = None,
    metrics_port: int | None = None,
    *,
    ready_s: float = READY_S,
    arguments: Sequence[str] = (),
) -> TritonServer:
    """Serve one or several model repositories and return when every model is ready.

    Args:
        models: the repositories.
        work_dir: a writable folder; gets the backends (2 MB) and the log.
        http_port, grpc_port, metrics_port: ports on 127.0.0.1; a free one where left out.
        ready_s: how long to wait for the models, in seconds.
        arguments: further arguments for ``tritonserver``.

    Raises:
        TritonNotStarted: the wheel is missing, or the server ended or was not ready in time.
    """
    repositories = [models] if isinstance(models, Path) else list(models)
    for repository in repositories:
        if not repository.is_dir():
            raise TritonNotStarted(f"there is no model repository at {repository}")
    site, binary = _find_wheel()
    work_dir.mkdir(parents=True, exist_ok=True)
    backends = _copy_backends(binary.parents[1], work_dir)
    free = free_ports(3)
    http_port, grpc_port, metrics_port = (
        given or other
        for given, other in zip((http_port, grpc_port, metrics_port), free, strict=True)
    )
    log = work_dir / "triton.log"
    shm_prefix = f"triton_{os.getpid()}_{grpc_port}_"
    command = [
        str(binary),
        *(f"--model-repository={repository.resolve()}" for repository in repositories),
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--http-address={HOST}",
        f"--http-port={http_port}",
        f"--grpc-address={HOST}",
        f"--grpc-port={grpc_port}",
        f"--metrics-address={HOST}",
        f"--metrics-port={metrics_port}",
        "--exit-timeout-secs=3",
        *arguments,
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            tied(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(site),
            start_new_session=True,
        )
    server = TritonServer(process, http_port, grpc_port, metrics_port, log, shm_prefix)
    try:
        _wait_until_ready(server, ready_s)
    except BaseException:
        server.stop()
        raise
    return server


def _find_wheel() -> tuple[Path, Path]:
    """The site-packages folder that holds the wheel, and the server's program in it."""
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        raise TritonNotStarted(
            "Triton is not installed; install the extra: pip install 'pipeline-gateway[demo]'"
        )
    package = Path(next(iter(found.submodule_search_locations)))
    binary = package / "tritonserver" / "bin" / "tritonserver"
    if not binary.is_file():
        raise TritonNotStarted(f"nvidia-pytriton is installed, but {binary} is missing from it")
    return package.parent, binary


def _copy_backends(wheel: Path, work_dir: Path) -> Path:
    """The backends, with the Python one given the stub of the running Python's version."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        known = sorted(path.name for path in (wheel / "python_backend_stubs").iterdir())
        raise TritonNotStarted(
            f"nvidia-pytriton has no stub for Python {version}; it has them for {', '.join(known)}"
        )
    backends = work_dir / "backends"
    # Not over those of an earlier run: a stub that still ends cannot be written to.
    shutil.rmtree(backends, ignore_errors=True)
    shutil.copytree(wheel / "backends", backends)
    copy = backends / "python" / stub.name
    shutil.copy2(stub, copy)
    copy.chmod(0o755)
    return backends


def _environment(site: Path) -> dict[str, str]:
    libraries = [str(site / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    if inherited := os.environ.get("LD_LIBRARY_PATH"):
        libraries.append(inherited)
    # The models' interpreter ignores PYTHONPATH and PYTHONHOME; it looks for its packages where the
    # first ``python3`` of PATH has them. Ours must be that one, or it meets packages of another
    # Python (numpy 2, with which its tensors come out garbled).
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {
        # Models run beside everything else on the machine; one that wants more asks for it.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": os.pathsep.join(path),
    }


def _wait_until_ready(server: TritonServer, ready_s: float) -> None:
    deadline = time.monotonic() + ready_s
    while True:
        status = server.process.poll()
        if status is not None:
            raise TritonNotStarted(f"Triton ended with status {status}; {_log_tail(server.log)}")
        # Of the three services, the metrics are the last to listen.
        if _answers(server.http_port, "/v2/health/ready") and _answers(
            server.metrics_port, "/metrics"
        ):
            return
        if time.monotonic() > deadline:
            raise TritonNotStarted(
                f"Triton was not ready after {ready_s:g} s; {_log_tail(server.log)}"
            )
        time.sleep(0.05)


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False  # not listening yet; the caller asks again
    finally:
        connection.close()


def _log_tail(log: Path) -> str:
    text = log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()
    return f"its log ({log}) ends with:\n{text}" if text else f"its log ({log}) is empty"


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve model repositories with Triton on the CPU.")
    parser.add_argument("models", nargs="*", type=Path, help="model repositories; default: the OCR")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument("--work-dir", type=Path, help="default: a temporary folder")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit code."""
    given = _parse_arguments(arguments)
    models = given.models or [Path(__file__).parent / "models"]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    with contextlib.ExitStack() as stack:
        work_dir = given.work_dir or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="triton-"))
        )
        try:
            server = stack.enter_context(
                start_triton(models, work_dir, given.http_port, given.grpc_port, given.metrics_port)
            )
            print(f"ready: {server.grpc_url}  {server.http_url}  log: {server.log}", flush=True)
            return server.process.wait()
        except TritonNotStarted as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
