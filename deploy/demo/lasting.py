"""The scene of a run that outlives its gateway: a gateway of its own is killed and started again.

Owns: that gateway, its configuration, what is asked of it, and what must have become of the run.
Does not know: how everything else was started, nor what anything looks like.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploy.demo.children import Child, start_child
from deploy.demo.client import AnswerError, Arrived, json_body, send, stream
from deploy.demo.simulators import HOST, PUPAU_KEY
from deploy.demo.stage import Stage, curl_json, joined_pieces
from deploy.triton.serve import free_ports

#: Executions are all that this gateway has and the other has not.
CONFIG: Final = """\
server: {port: "${GATEWAY_PORT}", pre_stop_s: 0}
upstreams:
  pupau: {kind: pupau, url: "${PUPAU_URL}", api_key: "${PUPAU_API_KEY}"}
pipelines:
  chat: {upstream: pupau}
executions:
  store: sqlite:executions.db    # a file beside this one; redis://… is for several machines
  lease_s: 1                     # who has not been heard of for so long is taken for dead
"""
QUESTION: Final = "What becomes of a question when the gateway that has taken it on is killed?"
ANSWER: Final = f"In short: {len(QUESTION.split())} word(s) and 0 file(s) arrived safely."
#: The gateway is killed when so many events have come, of some thirty.
KILLED_AFTER: Final = 9
READY_S: Final = 60.0


@dataclass(slots=True)
class _Gateway:
    """A gateway that can be killed and started again, at the same address."""

    folder: Path
    port: int
    pupau_url: str
    child: Child | None = None
    starts: int = 0

    @property
    def base(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        self.starts += 1
        config = self.folder / "lasting.yaml"
        config.write_text(CONFIG)
        self.child = start_child(
            "The gateway that is killed",
            [sys.executable, "-m", "gateway", "serve", "--config", str(config)],
            self.folder / f"lasting-{self.starts}.log",
            {
                "GATEWAY_PORT": str(self.port),
                "PUPAU_URL": self.pupau_url,
                "PUPAU_API_KEY": PUPAU_KEY,
            },
        )
        self.child.wait_until_answering(f"{self.base}/readyz", READY_S)

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()


@contextmanager
def _gateway(stage: Stage) -> Iterator[_Gateway]:
    made = _Gateway(stage.folder.resolve(), free_ports(1)[0], stage.pupau_url)
    try:
        made.start()
        yield made
    finally:
        if made.child is not None:
            made.child.stop()


def run_that_outlives_its_gateway(stage: Stage) -> None:
    """A queued run is watched; its gateway is killed and started again; the watching goes on."""
    screen = stage.screen
    screen.scene("9  A run that outlives its gateway, which is killed on the way")
    seen_url = f"{stage.pupau_url}/_seen"
    before = send(seen_url).json()
    screen.say("A gateway of its own keeps executions in a file; its configuration ends with")
    screen.say("".join(f"    {line}\n" for line in CONFIG.splitlines()[-3:]).rstrip())
    with _gateway(stage) as gateway:
        there = Stage(screen, gateway.base, stage.key, stage.folder, stage.pupau_url, stage.wrong)
        body = {"text": QUESTION}
        path = "/v1/pipelines/chat/executeAsync"
        screen.command(there.curl(path, curl_json(body)))
        answer = send(f"{there.base}{path}", json_body(body), {"X-API-Key": there.key}).json()
        execution = f"/v1/executions/{answer['executionId']}"
        screen.value(answer)
        screen.say("It runs whether anybody watches it or not. Watched, until the kill:")
        screen.command(there.curl(f"{execution}/events", "-N"))
        first = screen.stream(_until_killed(gateway, _events(there, execution)))
        last = first[-1].id
        screen.command(f"kill -9 {gateway.child.process.pid if gateway.child else ''}")
        with screen.step("The gateway, started again", gateway.base):
            gateway.start()
        screen.say("The watching goes on behind the last event that was told:")
        screen.command(there.curl(f"{execution}/events", "-N", f"-H 'Last-Event-ID: {last}'"))
        then = screen.stream(_events(there, execution, last))
        _expect(there, [*first, *then])
        shown = send(f"{there.base}{execution}", None, {"X-API-Key": there.key}).json()
        screen.command(there.curl(execution))
        screen.value(shown)
        there.expect("Its status", shown.get("status"), "COMPLETED")
        found = send(f"{there.base}{execution}/observation").json()
        texts = [each.get("rawText") for each in found["mediaContents"]]
        there.expect("Its result is there once", texts.count(ANSWER), 1)
    seen = send(seen_url).json()
    calls = {name: seen[name] - before[name] for name in ("started", "broken_off", "finished")}
    expected = {"started": 2, "broken_off": 1, "finished": 1}
    stage.expect("What the simulated Pupau saw", calls, expected)


def _events(stage: Stage, execution: str, last: str = "") -> Generator[Arrived, None, None]:
    headers = {"X-API-Key": stage.key} | ({"Last-Event-ID": last} if last else {})
    return stream(f"{stage.base}{execution}/events", None, headers)


def _until_killed(
    gateway: _Gateway, events: Generator[Arrived, None, None]
) -> Generator[Arrived, None, None]:
    """The events up to when the stream breaks, because the gateway was killed."""
    number = 0
    try:
        for number, arrived in enumerate(events, 1):
            yield arrived
            if number == KILLED_AFTER:
                gateway.kill()
    except AnswerError:
        if number < KILLED_AFTER:
            raise
    if number < KILLED_AFTER:
        raise AnswerError(f"the stream ended after {number} events")


def _expect(stage: Stage, events: list[Arrived]) -> None:
    """Whether all events of the log came, each once, and what they say is right."""
    if not all(arrived.id for arrived in events):
        raise AnswerError("there are events without an ID")
    ids = [tuple(map(int, arrived.id.split("-"))) for arrived in events]
    turns = sorted({turn for turn, _ in ids})
    whole = [(turn, n) for turn in turns for n in range(1, 1 + sum(t == turn for t, _ in ids))]
    stage.expect("Every event came, and none twice", ids == whole, True)
    told = [
        {name: arrived.event[name] for name in ("status", "attempt") if name in arrived.event}
        for arrived in events
        if arrived.event["type"] == "EXECUTION_STATUS"
    ]
    expected: list[dict[str, Any]] = [
        {"status": "RUNNING"},
        {"status": "RUNNING", "attempt": 2},
        {"status": "COMPLETED"},
    ]
    stage.expect("It began again by itself", told, expected)
    again = [arrived for arrived, (turn, _) in zip(events, ids, strict=True) if turn == turns[-1]]
    stage.expect("What the second beginning streamed", joined_pieces(again).get("actor-3"), ANSWER)
