"""Runs the parts of the benchmark together: upstream, load generator, what is measured.

Owns: rounds, in which all that is compared has its turn, one after the other; what a call costs.
Does not know: which scenarios there are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.accounting import cpu_us_each
from tests.bench.measures import Measure, Results
from tests.bench.orders import Ordered
from tests.bench.peers import Peer, Start
from tests.bench.processes import Cores, Program, end, free_port, listens, running, spawn

#: Measures once; figures by their units.
Take = Callable[[], Awaitable[dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Call:
    """What is sent, whole, and what its answer's body must be like."""

    requests: list[str]
    check: Callable[[bytes], None]
    connections: int = 16


@dataclass(frozen=True, slots=True)
class Turn:
    """What is measured in each round, as ``case`` of ``peer``."""

    case: str
    peer: str
    take: Take


@dataclass
class Bench:
    """Everything that a scenario needs."""

    folder: Path
    cores: Cores
    load: Ordered
    upstream: Program
    stack: AsyncExitStack
    rounds: int
    block_s: float
    quick: bool
    results: Results = field(default_factory=Results)
    scenario: str = ""
    broken: list[str] = field(default_factory=list)

    async def start(self, name: str, start: Start, cores: set[int] | None = None) -> Program:
        """Start a program, on the proxies' core; it runs until the scenario is over."""
        port = free_port()
        folder = self.folder / f"{name}-{port}".replace(" ", "-")
        folder.mkdir()
        command = start(port, self.upstream.port, folder)
        return await self.stack.enter_async_context(
            running(
                command.line,
                port,
                cores or {self.cores.proxy},
                log=folder / "output.log",
                environment=command.environment,
            )
        )

    async def start_ordered(self, *command: str, core: int | None = None) -> Ordered:
        """Start ``python -m`` such a command, on the proxies' core; it heeds until the scenario is
        over."""
        process = spawn(
            [sys.executable, "-m", *command],
            {self.cores.proxy if core is None else core},
            log=self.folder / f"{command[0]}-{free_port()}.log",
            interactive=True,
        )
        self.stack.callback(end, process)
        return Ordered(process)

    async def start_peers(self, *peers: Peer) -> dict[str, Program]:
        """Those of them that can be started, by name; of the others it is noted why not."""
        started: dict[str, Program] = {}
        for peer in peers:
            if not peer.there:
                self.note(peer.missing)
                continue
            try:
                started[peer.name] = await self.start(peer.name, peer.start)
            except (RuntimeError, OSError) as error:
                self.note(f"{peer.name} did not start: {str(error)[-300:]}")
        return started

    def note(self, sentence: str) -> None:
        """Say in the report what could not be measured."""
        known = self.results.notes.setdefault(self.scenario, [])
        if sentence not in known:
            known.append(sentence)
            print(f"  {sentence}", flush=True)

    def record(self, case: str, peer: str, unit: str, values: Sequence[float]) -> Measure:
        """Keep a figure, and show it."""
        measure = Measure(self.scenario, case, peer, unit, [*values])
        self.results.measures.append(measure)
        low, high = min(values), max(values)
        print(
            f"  {case:34} {peer:14} {measure.median:12.4g} {unit:10} {low:.4g} to {high:.4g}",
            flush=True,
        )
        return measure

    async def block(self, program: Program, call: Call) -> tuple[list[float], dict[str, Any]]:
        """One block of calls: CPU microseconds of each process of ``program``, and what the load
        generator saw."""
        told = await self.load.do(
            "connect", port=program.port, requests=call.requests, count=call.connections
        )
        for sample in told["samples"]:
            call.check(sample.encode("latin-1"))
        before = cpu_us_each(program.pid)
        seen = await self.load.do("calls", seconds=self.block_s)
        after = cpu_us_each(program.pid)
        await self.load.do("hang up")
        return [used - before.get(pid, 0.0) for pid, used in after.items()], seen

    def calling(self, program: Program, call: Call, per: str = "calls") -> Take:
        """Takes a block: the CPU of a call (or an event), and how many there were in a second."""

        async def take() -> dict[str, float]:
            used, seen = await self.block(program, call)
            return {"µs": sum(used) / seen[per], f"{per}/s": seen[per] / seen["seconds"]}

        return take

    async def in_turns(self, turns: Sequence[Turn], *, rounds: int = 0) -> None:
        """Take every turn once in every round, and record what came of it."""
        taken: list[dict[str, list[float]]] = [{} for _ in turns]
        for _ in range(rounds or self.rounds):
            for turn, figures in zip(turns, taken, strict=True):
                for unit, value in (await turn.take()).items():
                    figures.setdefault(unit, []).append(value)
        for turn, figures in zip(turns, taken, strict=True):
            for unit, values in figures.items():
                self.record(turn.case, turn.peer, unit, values)


def post(path: str, body: bytes, *, headers: str = "") -> str:
    """A whole POST request, as Latin-1."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head + body.decode("latin-1")


@asynccontextmanager
async def harness(
    folder: Path, *, rounds: int, block_s: float, quick: bool
) -> AsyncIterator[Bench]:
    """The upstream and the load generator, running."""
    cores = Cores.here()
    os.sched_setaffinity(0, {cores.load})  # nothing of ours disturbs what is measured
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.upstream", str(port)]
    generator = [sys.executable, "-m", "tests.bench.load"]
    log = folder / "upstream.log"
    load = spawn(generator, {cores.load}, log=folder / "load.log", interactive=True)
    upstream = spawn(command, {cores.upstream}, log=log)
    try:
        await listens(upstream, port, log)
        async with AsyncExitStack() as stack:
            yield Bench(
                folder=folder,
                cores=cores,
                load=Ordered(load),
                upstream=Program(upstream.pid, port),
                stack=stack,
                rounds=rounds,
                block_s=block_s,
                quick=quick,
            )
    finally:
        end(upstream)
        end(load)
        os.sched_setaffinity(0, cores.all)
