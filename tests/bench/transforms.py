"""Scenario of an observation transform, over observations of two sizes.

Owns: what is sent, what must come back.
Does not know: how it is measured.
"""

from __future__ import annotations

import json
from typing import Any

from tests.bench import answers, calls, peers
from tests.bench.harness import Bench, Call, Take, Turn

OBSERVATION = peers.DATA / "observation.jsonata"
SIZES = {"25 KB": answers.MEDIUM, "250 KB": answers.LARGE}

CONFIG: dict[str, Any] = {
    **calls.CONFIG,
    "pipelines": {
        name: {"upstream": "docs", "pipeline": f"obs-{entities}", **transform}
        for entities in SIZES.values()
        for name, transform in {
            f"obs-{entities}": {},
            f"obs-{entities}-changed": {"transform": {"observation": OBSERVATION.read_text()}},
        }.items()
    },
}


def changed(entities: int) -> Call:
    """A Cambrion call whose observation is transformed."""

    def check(body: bytes) -> None:
        got = json.loads(body)["observation"]
        assert len(got["text"].splitlines()) == entities, body[:300]
        assert set(got["fields"]) == set(answers.LABELS), body[:300]
        assert got["fields"]["item"] == answers.total("item", entities), body[:300]

    return Call([calls.execute(f"obs-{entities}-changed")], check, connections=8)


async def jsonata(bench: Bench) -> None:
    """An observation transform, beside the same call without, the engine alone, and Node."""
    gateway = await bench.start("gateway", peers.gateway(CONFIG))
    started = await bench.start_peers(peers.NODE)
    engine = await bench.start_ordered("tests.bench.engine")

    def evaluating(entities: int) -> Take:
        async def take() -> dict[str, float]:
            told = await engine.do(
                "evaluate", file=str(OBSERVATION), entities=entities, seconds=bench.block_s
            )
            return {"µs": told["us"]}

        return take

    turns: list[Turn] = []
    for size, entities in SIZES.items():
        plain = calls.executed(entities)
        turns += [
            Turn(f"{size}, as it is", "gateway", bench.calling(gateway, plain)),
            Turn(f"{size}, transform", "engine alone", evaluating(entities)),
            Turn(f"{size}, transform", "gateway", bench.calling(gateway, changed(entities))),
        ]
        for name, program in started.items():
            turns.append(
                Turn(f"{size}, transform", name, bench.calling(program, changed(entities)))
            )
    await bench.in_turns(turns)
