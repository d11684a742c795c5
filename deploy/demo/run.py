"""``make demo``: starts everything on this machine, shows it at work, and leaves nothing behind.

A real Triton on the CPU with the OCR ensemble and the invoice checks, the two simulated APIs, and
the gateway with ``config/gateway.yaml``; then the scenes; then it stays up until Ctrl-C. With
``ONCE=1`` it ends after the scenes: exit code 0 if every answer was right, else 1. ``ports`` lists
the variables that set the ports; files go to ``.demo/`` only, or to ``DEMO_FOLDER``.

Owns: the order of starting and ending, signals, the exit code.
Does not know: what is sent and what is right (``scenes``), nor how it looks (``screen``).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from deploy.demo.children import Child, ChildFailedError, start_child
from deploy.demo.ports import Ports, PortTakenError, choose_ports
from deploy.demo.scenes import play, write_files
from deploy.demo.screen import Screen
from deploy.demo.simulators import CAMBRION_KEY, HOST, PUPAU_KEY
from deploy.demo.stage import Stage
from deploy.triton.serve import TritonNotStarted, start_triton

ROOT: Final = Path(__file__).resolve().parents[2]
CONFIG: Final = ROOT / "config" / "gateway.yaml"
MODELS: Final = ROOT / "deploy" / "triton" / "models"
DEMO_KEY: Final = "demo-key"
READY_S: Final = 60.0
#: The exit code of what was ended by a signal before it had finished.
STOPPED: Final = 130
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _StoppedError(Exception):
    """SIGINT, SIGTERM or SIGHUP arrived."""


@dataclass(frozen=True, slots=True)
class Running:
    """Everything that was started. ``base``: the gateway's address."""

    base: str
    pupau_url: str
    children: tuple[Child, ...]

    def check(self) -> None:
        """Raises ChildFailedError if anything has ended."""
        for child in self.children:
            child.check()


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Run the demo. The exit code: 0 if every answer was right."""
    once = environment.get("ONCE", "") not in ("", "0")
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a console without UTF-8
    screen = Screen()
    for number in _SIGNALS:
        signal.signal(number, _raise_stopped)
    screen.title("pipeline-gateway: either dialect in, either dialect or Triton out")
    folder = Path(environment.get("DEMO_FOLDER") or ".demo")
    try:
        with _started(screen, choose_ports(environment), folder) as running:
            stage = Stage(
                screen=screen,
                base=running.base,
                key=DEMO_KEY,
                folder=folder,
                pupau_url=running.pupau_url,
            )
            play(stage)
            running.check()
            _conclude(screen, stage)
            if not once:
                _give_hints(screen, stage)
                _stay(screen, running)
            return 1 if stage.wrong else 0
    except _StoppedError:
        return STOPPED
    except (PortTakenError, ChildFailedError, TritonNotStarted) as error:
        screen.trouble(str(error))
        return 1


def _raise_stopped(_number: int, _frame: FrameType | None) -> None:
    raise _StoppedError


@contextmanager
def _started(screen: Screen, ports: Ports, folder: Path) -> Iterator[Running]:
    """Start everything, and end it when the context is left, however that happens."""
    for notice in ports.notices:
        screen.say(notice)
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder)
    with ExitStack() as stack:
        try:
            yield _start_all(screen, ports, folder.resolve(), stack)
        finally:
            # Ending takes a moment, and a second Ctrl-C must not cut it short.
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)


def _start_all(screen: Screen, ports: Ports, folder: Path, stack: ExitStack) -> Running:
    """Start Triton, the simulated APIs and the gateway; ``stack`` ends them."""
    cambrion_url = f"http://{HOST}:{ports.cambrion}/v1"
    pupau_url = f"http://{HOST}:{ports.pupau}"
    base = f"http://{HOST}:{ports.gateway}"
    simulators = start_child(
        "The program of the simulated APIs",
        [
            *(sys.executable, "-m", "deploy.demo.simulators"),
            *("--cambrion-port", str(ports.cambrion), "--pupau-port", str(ports.pupau)),
        ],
        folder / "simulators.log",
    )
    stack.callback(simulators.stop)
    with screen.step("Triton with OCR and invoice checks", f"grpc://{HOST}:{ports.triton_grpc}"):
        triton = start_triton(
            MODELS,
            folder / "triton",
            ports.triton_http,
            ports.triton_grpc,
            ports.triton_metrics,
        )
        stack.callback(triton.stop)
    with screen.step("Simulated Cambrion and Pupau APIs", f"{cambrion_url}  {pupau_url}"):
        simulators.wait_until_answering(f"{pupau_url}/_seen", READY_S)
    gateway = start_child(
        "The gateway",
        [sys.executable, "-m", "gateway", "serve", "--config", str(CONFIG)],
        folder / "gateway.log",
        {
            "GATEWAY_PORT": str(ports.gateway),
            "TRITON_URL": triton.grpc_url,
            "CAMBRION_URL": cambrion_url,
            "CAMBRION_NEAR_URL": f"http://{HOST}:{_refusing_port(stack)}/v1",
            "CAMBRION_API_KEY": CAMBRION_KEY,
            "PUPAU_URL": pupau_url,
            "PUPAU_API_KEY": PUPAU_KEY,
        },
    )
    stack.callback(gateway.stop)
    with screen.step("The gateway", base):
        gateway.wait_until_answering(f"{base}/readyz", READY_S)
    return Running(
        base, pupau_url, (Child("Triton", triton.process, triton.log), simulators, gateway)
    )


def _refusing_port(stack: ExitStack) -> int:
    """A port that refuses connections until ``stack`` ends: it is taken, but nobody listens."""
    taken = stack.enter_context(socket.socket())
    taken.bind((HOST, 0))
    return int(taken.getsockname()[1])


def _conclude(screen: Screen, stage: Stage) -> None:
    """Say whether all was right, and if not, what was wrong."""
    screen.scene("Result")
    if not stage.wrong:
        screen.verdict("Every answer was right.", right=True)
    for text in stage.wrong:
        screen.verdict(text, right=False)


def _give_hints(screen: Screen, stage: Stage) -> None:
    """What to try next."""
    call = f".venv/bin/pipeline-gateway call invoice --url {stage.base} --key {stage.key}"
    screen.scene("What to try next, in another terminal")
    screen.hints(
        [
            (
                "Read the photograph from the command line:",
                f"{call} --file {stage.folder}/invoice-photo.jpg",
            ),
            (
                "Any document of yours (PNG, JPEG):",
                stage.curl("/pipelines/invoice/queries?sse=true", "-N", "-F file=@PATH"),
            ),
            (
                "The invoice and its second page, as a PDF:",
                stage.curl(
                    "/v1/pipelines/invoice/executeSync/json",
                    f"-d @{stage.folder}/invoice-pdf.json",
                ),
            ),
            (
                "The same with a report, its actors side by side:",
                stage.curl("/pipelines/invoice-report/queries?sse=true", "-N", "-F file=@PATH"),
            ),
            ("What can be called:", stage.curl("/v1/pipelines")),
            (
                f"Every call, described ({stage.base}/docs shows it in a browser, to be tried):",
                f"curl -s {stage.base}/openapi.json",
            ),
            ("The ensemble behind it:", stage.curl("/v1/pipelines/invoice/definition")),
            ("All numbers:", f"curl -s {stage.base}/metrics"),
            ("Whether every upstream answers:", f"curl -s {stage.base}/readyz"),
            (
                "Change config/gateway.yaml or a mapping in transforms/, see whether it is valid:",
                ".venv/bin/pipeline-gateway check --config config/gateway.yaml",
            ),
            (
                "How a request goes through a pipeline, with every limit on its way:",
                ".venv/bin/pipeline-gateway check --explain invoice-report",
            ),
            ("Logs:", f"tail -f {stage.folder}/*.log {stage.folder}/triton/triton.log"),
        ]
    )


def _stay(screen: Screen, running: Running) -> None:
    """Stay up until a signal arrives. Raises ChildFailedError if anything ends meanwhile."""
    screen.say("")
    screen.say(f"The gateway stays up at {running.base}. Ctrl-C ends it and everything else.")
    try:
        while True:
            running.check()
            time.sleep(0.5)
    except _StoppedError:
        screen.say("Ending …")


if __name__ == "__main__":
    sys.exit(main())
