"""What the hot path costs, as multiples of the bare proxy's cost: the figures that CI watches.

Run as ``python -m tests.bench.guard`` to measure them several times and write them into
``baseline.json``: for when the hot path has become cheaper, or dearer with good reason.

A busy machine charges everybody more, and from moment to moment differently. So each figure is a
ratio within one short moment, and the median of many such moments. Beside two busy loops on the
same two cores, medians taken anew lay within 4 % of each other for calls, and 6 % for events.

Owns: what is watched, and how a busy machine is borne with.
Does not know: what is done about a figure that is too high.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.bench import answers, calls, peers, streams
from tests.bench.accounting import cpu_us
from tests.bench.harness import Call, harness
from tests.bench.orders import Ordered
from tests.bench.processes import Program

BASELINE: Final = Path(__file__).parent / "baseline.json"
#: How often each figure is measured anew for the baseline, which is the median of those.
TIMES: Final = 7
#: Moments in which calls are compared, and how long each side calls in one, seconds.
ROUNDS: Final = 24
BLOCK_S: Final = 0.06
CONNECTIONS: Final = 8
#: Moments in which streams are compared, how long each is, and how many streams each side has.
WINDOWS: Final = 20
WINDOW_S: Final = 0.15
STREAMS: Final = 40

CONFIG: Final[dict[str, Any]] = {
    **calls.CONFIG,
    "pipelines": {**calls.CONFIG["pipelines"], "paced": {"upstream": "talk"}},
}


@dataclass(frozen=True, slots=True)
class Side:
    """A proxy, and a load generator that calls nobody else."""

    program: Program
    load: Ordered

    async def connect(self, call: Call) -> None:
        """Open the connections on which it is called, and check what comes."""
        told = await self.load.do(
            "connect", port=self.program.port, requests=call.requests, count=CONNECTIONS
        )
        for sample in told["samples"]:
            call.check(sample.encode("latin-1"))

    async def cost_us(self) -> float:
        """The CPU of a call, over a moment of them."""
        before = cpu_us(self.program.pid)
        seen = await self.load.do("calls", seconds=BLOCK_S)
        return (cpu_us(self.program.pid) - before) / float(seen["calls"])

    async def events(self) -> int:
        """How many have come since this was asked before."""
        return int((await self.load.do("mark"))["events"])


@dataclass(frozen=True, slots=True)
class Pair:
    """The gateway and the bare proxy before the same upstream."""

    gateway: Side
    bare: Side

    async def small(self) -> float:
        """A small call in the upstream's own dialect."""
        return await self._calls(calls.executed(answers.SMALL))

    async def changed(self) -> float:
        """The same with the dialect changed, over the bare proxy's call without."""
        return await self._calls(Call([calls.query("obs-1")], calls.told_value))

    async def _calls(self, call: Call) -> float:
        await self.gateway.connect(call)
        await self.bare.connect(calls.executed(answers.SMALL))
        ratios = [await self.gateway.cost_us() / await self.bare.cost_us() for _ in range(ROUNDS)]
        for side in (self.gateway, self.bare):
            await side.load.do("hang up")
        return median(ratios)

    async def event(self) -> float:
        """A paced event of a stream; the streams of both sides run at the same time."""
        sides = (self.gateway, self.bare)
        for side in sides:
            await side.load.do(
                "open",
                port=side.program.port,
                request=streams.streamed("paced"),
                count=STREAMS,
            )
        ratios = []
        for _ in range(WINDOWS):
            before = [(cpu_us(side.program.pid), await side.events())[0] for side in sides]
            await asyncio.sleep(WINDOW_S)
            ours, theirs = [
                (cpu_us(side.program.pid) - used) / await side.events()
                for side, used in zip(sides, before, strict=True)
            ]
            ratios.append(ours / theirs)
        for side in sides:
            await side.load.do("close")
        return median(ratios)


#: What is watched, by the name it has in the baseline.
WATCHED: Final = {
    "small call": Pair.small,
    "small call, dialect changed": Pair.changed,
    "paced event": Pair.event,
}


@asynccontextmanager
async def paired() -> AsyncIterator[Pair]:
    """Both, running."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        opened = harness(Path(folder), rounds=1, block_s=BLOCK_S, quick=True)
        async with opened as bench, AsyncExitStack() as bench.stack:
            starts = {"gateway": peers.gateway(CONFIG), "bare": peers.BARE.start}
            sides = [
                Side(
                    await bench.start(name, start),
                    await bench.start_ordered("tests.bench.load", core=bench.cores.load),
                )
                for name, start in starts.items()
            ]
            yield Pair(*sides)


def baseline() -> dict[str, float]:
    """The figures as they were when they were last accepted."""
    known: dict[str, float] = json.loads(BASELINE.read_text())
    return known


async def main() -> int:
    """Measure the baseline anew and write it. Returns the exit code."""
    figures: dict[str, list[float]] = {name: [] for name in WATCHED}
    async with paired() as pair:
        for _ in range(TIMES):
            for name, measure in WATCHED.items():
                figures[name].append(await measure(pair))
    for name, values in figures.items():
        print(f"{name:30} {median(values):.3f}  {min(values):.3f} to {max(values):.3f}")
    accepted = {name: round(median(values), 3) for name, values in figures.items()}
    BASELINE.write_text(json.dumps(accepted, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
