"""A long run of streams, half of them given up by their clients, and what the gateway keeps of it.

Run as ``python -m tests.bench.soak [STREAMS]``: a gateway in a process of its own, upstreams in
another. Prints memory, descriptors and gauges as they go. Exits with 1 where memory grows by
``GROWTH_BYTES_MAX`` or more for 10,000 streams, where anything is left over, or answered wrongly.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from tests.bench.soak_upstream import KEPT_S
from tests.support.leftovers import descriptors, gauges
from tests.support.serving import serving

STREAMS = 20_000
WARM_UP = 2_000
EVERY = 1_000
AT_ONCE = 50
GROWTH_BYTES_MAX = 1_000_000
#: How long the last requests may take to unwind, seconds.
UNWIND_S = 0.3

CONFIG = """
server: {{port: 0, watch: false}}
upstreams:
  talk: {{kind: pupau, url: "http://127.0.0.1:{port}"}}
  chat: {{kind: pupau, url: "http://127.0.0.1:{port}"}}
  docs: {{kind: cambrion, url: "http://127.0.0.1:{port}/v1"}}
  down: {{kind: pupau, url: "http://127.0.0.1:1", required: false}}
pipelines:
  talk: {{upstream: talk}}
  docs: {{upstream: docs}}
  touched: {{upstream: talk, transform: {{event: "$", observation: "$"}}}}
  fallback: {{upstreams: [down, talk]}}
  race: {{upstreams: [talk, chat, docs], policy: race}}
  hedge: {{upstreams: [talk, chat], policy: hedge, hedge_after_s: 0.005}}
  weighted: {{upstreams: [talk, docs], policy: weighted, sticky: text}}
  least_busy: {{upstreams: [talk, chat], policy: least_busy}}
  layers:
    layers:
      - - {{actor: reader, upstream: docs}}
        - {{actor: talker, upstreams: [talk, chat], policy: race}}
      - - {{actor: writer, upstream: chat}}
"""
PIPELINES = (
    *("talk", "docs", "touched", "fallback", "race", "hedge", "weighted", "least_busy", "layers"),
)


@dataclass(frozen=True, slots=True)
class State:
    """What a gateway holds at one moment, nothing running on it."""

    streams: int
    resident_bytes: int
    descriptors: Counter[str]
    gauges: dict[str, float]


@dataclass(slots=True)
class Report:
    """What came of a soak. ``states``: the first after the warm-up."""

    states: list[State] = field(default_factory=list)
    whole: int = 0
    aborted: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def growth_bytes(self) -> float:
        """By how much memory grew for 10,000 streams: the slope of the line of least squares."""
        xs = [state.streams for state in self.states]
        ys = [state.resident_bytes for state in self.states]
        middle = sum(xs) / len(xs)
        spread = sum((x - middle) ** 2 for x in xs)
        return sum((x - middle) * y for x, y in zip(xs, ys, strict=True)) / spread * 10_000

    @property
    def left_over(self) -> dict[str, float]:
        """Descriptors that were not open at the start, and gauges that are not at zero."""
        more = self.states[-1].descriptors - self.states[0].descriptors
        return {**more, **{name: n for name, n in self.states[-1].gauges.items() if n}}


class Soak:
    """Streams to the gateway at ``port``, whose process is ``pid``."""

    def __init__(self, base: str, pid: int, seed: int = 1) -> None:
        self.base = base
        self.report = Report()
        self._host, self._port = base.removeprefix("http://").split(":")
        self._pid = pid
        self._random = random.Random(seed)

    async def run(self, streams: int, warm_up: int, every: int) -> AsyncIterator[State]:
        """``warm_up`` streams, then ``streams``; the state after the first, and every so many."""
        await self._some(warm_up)
        yield await self._state(0, settled=True)
        for begun in range(0, streams, every):
            count = min(every, streams - begun)
            await self._some(count)
            yield await self._state(begun + count, settled=begun + count == streams)

    async def _some(self, count: int) -> None:
        left = iter(range(count))

        async def caller() -> None:
            for number in left:
                await self._stream(aborted=number % 2 == 0)

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))

    async def _state(self, streams: int, *, settled: bool) -> State:
        # Before the first state and the last, also the connections end that upstreams keep.
        await asyncio.sleep(UNWIND_S + KEPT_S if settled else UNWIND_S)
        pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
        state = State(
            streams,
            pages * os.sysconf("SC_PAGE_SIZE"),
            descriptors(self._pid),
            await gauges(self.base),
        )
        self.report.states.append(state)
        return state

    async def _stream(self, *, aborted: bool) -> None:
        """One stream, read to its end, or given up somewhere on the way: before the head, in mid
        event, anywhere."""
        draw, pipeline = self._random, self._random.choice(PIPELINES)
        if draw.random() < 0.5:
            path, body, accept = f"/pipelines/{pipeline}/queries?sse=true", "request", "*/*"
        else:
            path, body = f"/v1/pipelines/{pipeline}/executeSync", "text"
            accept = "text/event-stream"
        content = json.dumps({body: f"text {draw.random()}"}).encode()
        reader, writer = await asyncio.open_connection(self._host, int(self._port))
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: {accept}\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        try:
            if not aborted:
                answer = await reader.read(-1)
                self._check(path, answer)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(draw.uniform(0, 0.05)):
                    while await reader.read(4096):
                        pass
            if draw.random() < 0.5:
                writer.transport.abort()
            self.report.aborted += 1
        finally:
            writer.close()

    def _check(self, path: str, answer: bytes) -> None:
        good = answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"0\r\n\r\n")
        if good and answer.count(b'"last":true') + answer.count(b'"last": true') == 1:
            self.report.whole += 1
        else:
            self.report.wrong.append(f"{path}: {answer[-300:]!r}")


@asynccontextmanager
async def soaking() -> AsyncIterator[Soak]:
    """A gateway and its upstreams, each in a process of its own."""
    upstream = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.soak_upstream", stdout=PIPE
    )
    try:
        assert upstream.stdout is not None
        port = int(await upstream.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder, "gateway.yaml")
            config.write_text(CONFIG.format(port=port))
            async with serving(config) as process:
                yield Soak(process.base, process.process.pid)
    finally:
        upstream.kill()
        await upstream.wait()


async def main(streams: int) -> int:
    """Run it and print what is seen. Returns the exit code."""
    began = monotonic()
    async with soaking() as soak:
        async for state in soak.run(streams, WARM_UP, EVERY):
            print(
                f"{state.streams:7} streams  {state.resident_bytes / 1e6:8.2f} MB  "
                f"{state.descriptors.total():4} descriptors  "
                f"{sum(state.gauges.values()):g} on the gauges",
                flush=True,
            )
    report = soak.report
    first, last = report.states[0], report.states[-1]
    print(
        f"{report.whole} whole, {report.aborted} given up, {len(report.wrong)} wrong, "
        f"in {monotonic() - began:.0f} s, the first {WARM_UP} not counted as streams\n"
        f"memory: {report.growth_bytes / 1e6:+.3f} MB for 10,000 streams\n"
        f"descriptors: {dict(first.descriptors)} at the start, "
        f"{dict(last.descriptors)} at the end\n"
        f"gauges: {first.gauges} at the start, {last.gauges} at the end"
    )
    for wrong in report.wrong[:5]:
        print(wrong)
    bad = report.left_over or report.wrong or report.growth_bytes >= GROWTH_BYTES_MAX
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else STREAMS)))
