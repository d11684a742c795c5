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
from tests.bench.harness import Bench, Call, Turn, post
from tests.bench.processes import Program
from tests.bench.upstream import EVERY_S

STREAMS = 200
BURST = 5000
#: An event transform that reads every event and changes it.
EVENT = (peers.DATA / "event.jsonata").read_text()

CONFIG: dict[str, Any] = {
    **calls.CONFIG,
    "pipelines": {
        "paced": {"upstream": "talk"},
        "paced-changed": {"upstream": "talk", "pipeline": "paced", "transform": {"event": EVENT}},
        f"burst-{BURST}": {"upstream": "talk"},
        "burst-changed": {
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


async def watched(bench: Bench, program: Program, pipeline: str, seconds: float) -> dict[str, Any]:
    """Paced streams over ``program`` for so long: what the load generator saw, and ``cpu_us``."""
    await bench.load.do("open", port=program.port, request=streamed(pipeline), count=STREAMS)
    await asyncio.sleep(0.3)
    before = cpu_us(program.pid)
    await bench.load.do("mark")
    await asyncio.sleep(seconds)
    used = cpu_us(program.pid) - before
    seen = await bench.load.do("mark")
    await bench.load.do("close")
    wanted = STREAMS * seconds / EVERY_S
    if seen["streams"] != STREAMS or seen["events"] < wanted * 0.9:
        bench.note(f"only {seen['events']} of {wanted:.0f} paced events arrived in a round")
    return {**seen, "cpu_us": used}


async def paced(bench: Bench) -> None:
    """200 streams of 20 events a second each: CPU of an event, and how much later it arrives."""
    gateway = await bench.start("gateway", peers.gateway(CONFIG))
    started = await bench.start_peers(peers.ENVOY, peers.NGINX, peers.BARE, peers.NODE)
    turns = [
        ("direct", bench.upstream, "paced", "as it is"),
        ("gateway", gateway, "paced", "as it is"),
        *((name, program, "paced", "as it is") for name, program in started.items()),
        ("gateway", gateway, "paced-changed", "event transform"),
    ]
    if "node" in started:
        turns.append(("node", started["node"], "paced-changed", "event transform"))
    rounds = [
        [
            await watched(bench, program, pipeline, 1.0 if bench.quick else 2.5)
            for _, program, pipeline, _ in turns
        ]
        for _ in range(bench.rounds)
    ]
    for place, (peer, _, _, case) in enumerate(turns):
        seen = [one[place] for one in rounds]
        if peer != "direct":
            bench.record(case, peer, "µs", [one["cpu_us"] / one["events"] for one in seen])
        for which, name in enumerate(("p50", "p99")):
            later = [
                one[place]["latencies_us"][which] - one[0]["latencies_us"][which] for one in rounds
            ]
            if peer == "direct":
                later = [one["latencies_us"][which] for one in seen]
            bench.record(case, peer, f"µs {name}", later)


def burst(changed: bool) -> Call:
    """Streams of ``BURST`` events, one after the other, on a few connections."""

    def check(body: bytes) -> None:
        frames = body.split(b"\n\n")
        events = [json.loads(each[6:]) for each in frames if each.startswith(b"data: ")]
        assert len(events) == BURST, len(events)
        said = "WORD 007" if changed else "word 007"
        assert events[7]["message"] == said, events[7]
        assert events[-1]["last"] is True, events[-1]

    name = "burst-changed" if changed else f"burst-{BURST}"
    return Call([streamed(name)], check, connections=4)


async def full_speed(bench: Bench) -> None:
    """Streams as fast as they go: events a second of CPU."""
    gateway = await bench.start("gateway", peers.gateway(CONFIG))
    started = await bench.start_peers(peers.ENVOY, peers.NGINX, peers.BARE, peers.NODE)
    turns = [
        Turn("as it is", "gateway", gateway, burst(False)),
        *(Turn("as it is", name, program, burst(False)) for name, program in started.items()),
        Turn("event transform", "gateway", gateway, burst(True)),
    ]
    if "node" in started:
        turns.append(Turn("event transform", "node", started["node"], burst(True)))
    await bench.in_turns(turns, per="events")
