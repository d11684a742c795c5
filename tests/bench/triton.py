"""Scenario of small inferences: through the gateway, and by Triton's own client.

Owns: a Triton for the benchmark, and what it is asked.
Does not know: how a process's CPU is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from deploy.triton.serve import TritonNotStarted, TritonServer, start_triton
from tests.bench import calls, peers
from tests.bench.harness import Bench, Call, Take, Turn

MODELS: Final = Path(__file__).parent / "models"
TEXT: Final = b"What is it?"
SAID: Final = b"%d bytes" % len(TEXT)
CONNECTIONS: Final = 8


def serve(bench: Bench) -> TritonServer | None:
    """A Triton beside the load, for as long as the scenario runs; a note where there is none."""
    try:
        server = start_triton(MODELS, bench.folder / "triton")
    except TritonNotStarted as error:
        bench.note(f"No Triton: {error}")
        return None
    bench.stack.enter_context(server)
    return server


def config(url: str) -> dict[str, Any]:
    """The gateway before it."""
    return {
        **calls.CONFIG,
        "upstreams": {"triton": {"kind": "triton", "url": url}},
        "pipelines": {"weigh": {"upstream": "triton"}},
    }


def weighed(body: bytes) -> None:
    """What the model says of the text, as an observation."""
    content = json.loads(body)["observation"]["mediaContents"][0]
    assert content["rawText"].encode() == SAID, body[:300]


async def inference(bench: Bench) -> None:
    """A small inference over gRPC: the gateway's CPU, and that of Triton's own client."""
    server = serve(bench)
    if server is None:
        return
    gateway = await bench.start("gateway", peers.gateway(config(server.grpc_url)))
    url = server.grpc_url.removeprefix("grpc://")
    direct = await bench.start_ordered("tests.bench.direct_triton", url)

    def asking() -> Take:
        async def take() -> dict[str, float]:
            told = await direct.do("infer", seconds=bench.block_s, connections=CONNECTIONS)
            return {"µs": told["us"], "calls/s": told["calls"] / told["seconds"]}

        return take

    call = Call([calls.execute("weigh")], weighed, connections=CONNECTIONS)
    await bench.in_turns(
        [
            Turn("one inference", "gateway", bench.calling(gateway, call)),
            Turn("one inference", "tritonclient", asking()),
        ]
    )
