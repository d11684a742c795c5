"""Scenarios of streams: paced events, events at full speed.

Owns: what is streamed, and what is counted.
Does not know: how a program's CPU is read.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.bench import calls, peers
from tests.bench.accounting import cpu_us
from tests.bench.harness import Bench, Call, Take, Turn, post
from tests.bench.processes import Program
from tests.bench.upstream import EVERY_S

STREAMS = 200
BURST = 5000
#: Seconds between the opening of paced streams and the first that counts.
SETTLE_S = 0.3
#: Rounds of paced streams, which take longer than others.
PACED_ROUNDS = 7
#: An event transform that reads every event and changes it.
EVENT = (peers.DATA / "event.jsonata").read_text()

CONFIG: dict[str, Any] = {
    **calls.CONFIG,
    "pipelines": {
        "paced": {"upstream": "talk"},
        "paced-changed": {"upstream": "talk", "pipeline": "paced", "transform": {"event": EVENT}},
        f"burst-{BURST}": {"upstream": "talk"},
        f"burst-{BURST}-changed": {
            "upstream": "talk",
            "pipeline": f"burst-{BURST}",
            "transform": {"event": EVENT},
        },
    },
}


def streamed(pipeline: str) -> str:
    """A Pupau client's call for a stream."""
    return post(
        f"/pipelines/{pipeline}/queries?sse=true",
        b'{"request":"What is it?"}',
        headers=calls.PUPAU_KEYED,
    )


def watching(bench: Bench, program: Program, pipeline: str) -> Take:
    """Takes paced streams for a while: the CPU of an event, and how long events were on the way."""

    async def take() -> dict[str, float]:
        await bench.load.do("open", port=program.port, request=streamed(pipeline), count=STREAMS)
        await asyncio.sleep(SETTLE_S)
        before = cpu_us(program.pid)
        await bench.load.do("mark")
        await asyncio.sleep(bench.block_s * 5)
        used = cpu_us(program.pid) - before
        seen = await bench.load.do("mark")
        await bench.load.do("close")
        wanted = STREAMS * bench.block_s * 5 / EVERY_S
        if seen["streams"] != STREAMS or seen["events"] < wanted * 0.9:
            bench.note(f"{seen['events']} of {wanted:.0f} paced events arrived in a round")
        median, high, _ = seen["latencies_us"]
        return {"µs": used / seen["events"], "µs p50": median, "µs p99": high}

    return take


async def paced(bench: Bench) -> None:
    """200 streams of 20 events a second each: CPU of an event, and how long it is on its way."""
    gateway = await bench.start("gateway", peers.gateway(CONFIG))
    started = await bench.start_peers(peers.ENVOY, peers.NGINX, peers.BARE, peers.NODE)
    started = {"direct": bench.upstream, "gateway": gateway, **started}
    turns = [
        Turn("as it is", name, watching(bench, program, "paced"))
        for name, program in started.items()
    ]
    turns += [
        Turn("event transform", name, watching(bench, started[name], "paced-changed"))
        for name in ("gateway", "node")
        if name in started
    ]
    await bench.in_turns(turns, rounds=min(bench.rounds, PACED_ROUNDS))


def burst(count: int, *, changed: bool = False) -> Call:
    """Streams of so many events, one after the other, on a few connections."""

    def check(body: bytes) -> None:
        frames = body.split(b"\n\n")
        events = [json.loads(each[6:]) for each in frames if each.startswith(b"data: ")]
        assert len(events) == count, len(events)
        said = "WORD 007" if changed else "word 007"
        assert events[7]["message"] == said, events[7]
        assert events[-1]["last"] is True, events[-1]

    name = f"burst-{count}-changed" if changed else f"burst-{count}"
    return Call([streamed(name)], check, connections=4)


async def full_speed(bench: Bench) -> None:
    """Streams as fast as they go: events a second of CPU."""
    gateway = await bench.start("gateway", peers.gateway(CONFIG))
    started = await bench.start_peers(peers.ENVOY, peers.NGINX, peers.BARE, peers.NODE)
    started = {"gateway": gateway, **started}
    turns = [
        Turn("as it is", name, bench.calling(program, burst(BURST), "events"))
        for name, program in started.items()
    ]
    turns += [
        Turn(
            "event transform",
            name,
            bench.calling(started[name], burst(BURST, changed=True), "events"),
        )
        for name in ("gateway", "node")
        if name in started
    ]
    await bench.in_turns(turns)
