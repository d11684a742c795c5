"""Replicas of the gateway, each a process of its own, that keep executions in one store.

Owns: their configuration, their starting, signals and end; what is behind them: an upstream that
says how often it was asked what, and a receiver of webhooks.
Does not know: what is asked of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.redis_server import redis_server
from tests.support.remote import Peer, Seen, remote
from tests.support.scripts import frames
from tests.support.serving import ROOT, gone
from tests.support.timing import until

KINDS = ("sqlite", "redis")
#: How long the upstream and the test may take to see that a connection is gone, seconds.
_SEEN_S = 0.5
_CONFIG = """
server: {{port: 0, watch: false, pre_stop_s: 0, drain_s: {drain_s}}}
transforms: {{client: {{processes: 1}}}}
upstreams:
  talk: {{kind: pupau, url: "{behind}", required: false, retries: {{retries_max: 0}}}}
pipelines:
  talk: {{upstream: talk}}
executions:
  store: "{store}"
  lease_s: {lease_s}
  resume_s: {resume_s}
  attempts_max: 1000
  concurrency: {concurrency}
  hooks: {{allow_networks: [127.0.0.0/8], retry_s: 0.2, attempts_max: 100}}
"""


@dataclass(slots=True)
class Call:
    """One call that the upstream has got. ``said``: its pieces so far."""

    seen: Seen
    said: int = 0
    finished: bool = False

    @property
    def open(self) -> bool:
        """Whether it goes on."""
        return not self.finished and not self.seen.gone.is_set()


@dataclass(frozen=True, slots=True)
class Told:
    """A message that the receiver of webhooks has got."""

    execution: str
    status: str | None
    message_id: str


class Behind:
    """What is behind the gateways. A query ``NAME PIECES SECONDS`` is answered with so many pieces
    ``NAME.0 `` and so on, so many seconds before each; before the third it waits while ``NAME`` is
    held. Under ``/hook`` it receives webhooks.

    Args:
        refuses: whether a message is to be refused when it comes for the first time.
    """

    def __init__(self, refuses: Callable[[], bool] = lambda: False) -> None:
        self.calls: defaultdict[str, list[Call]] = defaultdict(list)
        #: Of what two calls went on at once.
        self.twice: list[str] = []
        self.told: list[Told] = []
        self.refused: set[str] = set()
        self.url = ""
        self._refuses = refuses
        self._held: dict[str, asyncio.Event] = {}

    def hold(self, name: str) -> None:
        """Have answers to ``name`` wait before their third piece, those to come included."""
        self._held[name] = asyncio.Event()

    def let_go(self, name: str) -> None:
        """Have them go on."""
        self._held[name].set()

    @property
    def endpoint(self) -> str:
        """Where webhooks go."""
        return f"{self.url}/hook"

    async def __call__(self, seen: Seen, peer: Peer) -> None:
        if seen.path == "/hook":
            await self._hear(seen, peer)
        else:
            await self._talk(seen, peer)

    async def _hear(self, seen: Seen, peer: Peer) -> None:
        name, status = seen.headers["x-execution-id"], seen.headers.get("x-execution-status")
        message = Told(name, status, seen.headers["webhook-id"])
        if message.message_id not in self.refused and self._refuses():
            self.refused.add(message.message_id)
            await peer.answer(b"", "500 Internal Server Error")
            return
        self.told.append(message)
        await peer.answer(b"")

    async def _talk(self, seen: Seen, peer: Peer) -> None:
        name, pieces, pause_s = json.loads(seen.body)["request"].split()
        call = Call(seen)
        before = [each for each in self.calls[name] if each.open]
        self.calls[name].append(call)
        if before and not await _within(_SEEN_S, lambda: not any(each.open for each in before)):
            self.twice.append(name)
        layer = {"layerId": "0"}
        await peer.open_stream()
        await peer.chunk(
            frames([{"type": "LAYER_MESSAGE", "message": "…", "executionCount": 1, **layer}])
        )
        for number in range(int(pieces)):
            await asyncio.sleep(float(pause_s))
            if number == 2 and name in self._held:
                await self._held[name].wait()
            if seen.gone.is_set():
                return
            piece = {"actorId": "a", "message": f"{name}.{number} ", **layer}
            await peer.chunk(frames([{"type": "STREAMING_RESPONSE", **piece}]))
            call.said += 1
        response = {"actorId": "a", "message": spoken(name, int(pieces)), "errors": [], "info": []}
        last = {"responses": [response], "last": True, **layer}
        await peer.chunk(frames([{"type": "LAYER_RESPONSE", **last}]))
        await peer.end()
        call.finished = True


def spoken(name: str, pieces: int) -> str:
    """All that the upstream says to a query."""
    return "".join(f"{name}.{number} " for number in range(pieces))


async def _within(limit_s: float, condition: Callable[[], bool]) -> bool:
    try:
        async with asyncio.timeout(limit_s):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        return False
    return True


@asynccontextmanager
async def behind(refuses: Callable[[], bool] = lambda: False) -> AsyncIterator[Behind]:
    """What is behind the gateways, on a port of its own."""
    made = Behind(refuses)
    async with remote(made) as server:
        made.url = server.url
        yield made


@dataclass(slots=True)
class Replica:
    """A process that serves at ``base``, as soon as that is told."""

    pid: int
    log: Path
    base: str = ""

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """End it at once, without a word. Returns when it is gone."""
        self.tell(signal.SIGKILL)
        await gone({self.pid})

    async def stop(self) -> None:
        """End it in order. Returns when it is gone."""
        self.tell(signal.SIGTERM)
        await gone({self.pid})

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged so far; a line that is no JSON is an ``event`` of its own."""
        if not self.log.exists():
            return []
        found = []
        for line in self.log.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                break  # it is being written
            try:
                found.append(json.loads(line))
            except ValueError:
                found.append({"event": line.rstrip("\n")})
        return found

    def look(self) -> bool:
        """Whether it serves; sets ``base``."""
        for line in [] if self.base else self.lines():
            if line["event"] == "listening":
                self.base = f"http://{line['host']}:{line['port']}"
        return bool(self.base)


class Replicas:
    """Starts replicas of one configuration, and ends them all with itself."""

    def __init__(self, config: Path, zygote: Process) -> None:
        self._config = config
        self._zygote = zygote
        self._asking = asyncio.Lock()
        self.started: list[Replica] = []

    async def launch(self) -> Replica:
        """A new one, which does not serve yet."""
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        async with self._asking:
            log = self._config.parent / f"replica-{len(self.started) + 1}.log"
            self._zygote.stdin.write(f"{self._config}\t{log}\n".encode())
            replica = Replica(int(await self._zygote.stdout.readline()), log)
            self.started.append(replica)
        return replica

    async def start(self) -> Replica:
        """A new one, which serves."""
        replica = await self.launch()
        try:
            await until(replica.look)
        except TimeoutError:
            raise AssertionError(f"a replica does not start: {replica.lines()}") from None
        return replica


def configuration(
    store: str,
    upstream: Behind,
    *,
    lease_s: float = 1.0,
    concurrency: int = 4,
    drain_s: float = 5.0,
    resume_s: float = 0.0,
) -> str:
    """The YAML of a gateway that keeps executions in ``store``."""
    return _CONFIG.format(
        behind=upstream.url,
        store=store,
        lease_s=lease_s,
        concurrency=concurrency,
        drain_s=drain_s,
        resume_s=resume_s,
    )


@asynccontextmanager
async def replicas(
    folder: Path, store: str, upstream: Behind, **options: Any
) -> AsyncIterator[Replicas]:
    """What starts replicas that share ``store``; ``options`` are those of ``configuration``."""
    config = folder / "gateway.yaml"
    config.write_text(configuration(store, upstream, **options))
    zygote = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.zygote"),
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    made = Replicas(config, zygote)
    try:
        yield made
    finally:
        if zygote.returncode is None:
            zygote.kill()
        await zygote.wait()
        await gone({each.pid for each in made.started})


@asynccontextmanager
async def shared(kind: str, folder: Path) -> AsyncIterator[str]:
    """A place of a store of ``kind``, as a configuration names it."""
    if kind == "sqlite":
        yield f"sqlite:{folder / 'executions.db'}"
        return
    kept = folder / "redis"
    kept.mkdir()
    async with redis_server(kept) as server:
        yield server.url
