"""Scenario of what the cost must grow with, and what it must not.

Owns: the sizes, and what is the same but for them.
Does not know: how it is measured.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from tests.bench import answers, calls, peers, resources, streams
from tests.bench.harness import Bench, Call, Take, Turn
from tests.bench.processes import Program

MANY: Final = 10_000
OPEN: Final = 5000
ENTITIES: Final = (1, 10, 100, 400, 1000, 4000)
EVENTS: Final = (10, 100, 1000, 5000, 10_000)
CONNECTIONS: Final = (1, 4, 16, 64, 256)


async def configured(bench: Bench) -> None:
    """A small call where much is configured, or open, that it has nothing to do with."""
    few = await bench.start("few", peers.gateway(calls.CONFIG))
    pipelines = await bench.start("pipelines", peers.gateway(_many_pipelines()))
    keys = await bench.start("keys", peers.gateway(_many_keys()))
    held = await bench.start("held", peers.gateway(_holding()))
    small = calls.executed(answers.SMALL)
    spread = [calls.execute(f"p{number}") for number in range(0, MANY, MANY // small.connections)]
    opened = 500 if bench.quick else OPEN
    await bench.load.do("open", port=held.port, request=streams.streamed("idle"), count=opened)
    cases = {
        "one pipeline, one key": (few, small),
        f"{MANY} pipelines": (pipelines, Call(spread, small.check)),
        f"{MANY} keys": (keys, small),
        f"{opened} open streams": (held, small),
    }
    await bench.in_turns(
        [
            Turn(case, "gateway", bench.calling(program, call))
            for case, (program, call) in cases.items()
        ]
    )
    await bench.load.do("close")


def _many_pipelines() -> dict[str, Any]:
    pipelines = {f"p{n}": {"upstream": "docs", "pipeline": "obs-1"} for n in range(MANY)}
    return {**calls.CONFIG, "pipelines": pipelines}


def _many_keys() -> dict[str, Any]:
    others = [
        {"name": f"k{n}", "sha256": hashlib.sha256(b"%d" % n).hexdigest()} for n in range(MANY - 1)
    ]
    return {**calls.CONFIG, "keys": [*others, *calls.CONFIG["keys"]]}


def _holding() -> dict[str, Any]:
    config = resources.idle_config()
    # Their heartbeats are the streams' own cost, not that of the calls beside them.
    server = {**config["server"], "heartbeat_s": 3600}
    return {
        **config,
        "server": server,
        "upstreams": {**calls.CONFIG["upstreams"], **config["upstreams"]},
        "pipelines": {**calls.CONFIG["pipelines"], **config["pipelines"]},
    }


async def growth(bench: Bench) -> None:
    """Cost against an answer's bytes, a stream's events, and connections at one time."""
    config = {**calls.CONFIG, "pipelines": _sized()}
    started = {
        "gateway": await bench.start("gateway", peers.gateway(config)),
        **await bench.start_peers(peers.ENVOY, peers.BARE),
    }
    turns = [
        *(
            Turn(f"{len(answers.execution(n))} bytes", name, bench.calling(program, _sized_call(n)))
            for n in ENTITIES
            for name, program in started.items()
        ),
        *(
            Turn(f"{n} events", name, bench.calling(program, streams.burst(n)))
            for n in EVENTS
            for name, program in started.items()
        ),
        *(
            Turn(f"{n} at once", name, _at_once(bench, program, n))
            for n in CONNECTIONS
            for name, program in started.items()
        ),
    ]
    await bench.in_turns(turns, rounds=2 if bench.quick else 5)


def _sized() -> dict[str, Any]:
    documents = {f"obs-{n}": {"upstream": "docs"} for n in ENTITIES}
    return {**documents, **{f"burst-{n}": {"upstream": "talk"} for n in EVENTS}}


def _sized_call(entities: int) -> Call:
    call = calls.executed(entities)
    return Call(call.requests, call.check, connections=4)


def _at_once(bench: Bench, program: Program, connections: int) -> Take:
    small = calls.executed(answers.SMALL)
    return bench.calling(program, Call(small.requests, small.check, connections=connections))
