"""Scenarios of plain calls: the same dialect, the dialect changed.

Owns: what is sent, what must come back.
Does not know: how it is measured.
"""

from __future__ import annotations

import json
from typing import Any

from tests.bench import answers, peers
from tests.bench.harness import Bench, Call, Turn, post

KEYED = f"X-API-Key: {peers.KEY}\r\n"
PUPAU_KEYED = f"Api-Key: {peers.KEY}\r\n"

#: Keys, and an upstream of each kind with a key of its own. Nothing is switched off.
CONFIG: dict[str, Any] = {
    "keys": [{"name": "bench", "sha256": peers.KEY_SHA256}],
    "upstreams": {
        "docs": {"kind": "cambrion", "url": "http://127.0.0.1:UPSTREAM/v1", "api_key": "up"},
        "talk": {"kind": "pupau", "url": "http://127.0.0.1:UPSTREAM", "api_key": "up"},
    },
    "pipelines": {
        "obs-1": {"upstream": "docs"},
        "obs-100": {"upstream": "docs"},
        "obs-1000": {"upstream": "docs"},
        "talk-1": {"upstream": "talk", "pipeline": "obs-1"},
    },
}


def execute(pipeline: str) -> str:
    """A Cambrion client's call."""
    return post(f"/v1/pipelines/{pipeline}/executeSync", b'{"text":"What is it?"}', headers=KEYED)


def query(pipeline: str) -> str:
    """A Pupau client's call."""
    return post(f"/pipelines/{pipeline}/queries", b'{"request":"What is it?"}', headers=PUPAU_KEYED)


def executed(entities: int) -> Call:
    """A Cambrion call through to a Cambrion upstream; the observation arrives as it was sent."""
    wanted = json.loads(answers.observation(entities))

    def check(body: bytes) -> None:
        got = json.loads(body)["observation"]
        assert {**got, "executionId": "x"} == wanted, body[:300]

    return Call([execute(f"obs-{entities}")], check)


def observed_words(body: bytes) -> None:
    """A Pupau upstream's words, as an observation for a Cambrion client."""
    content = json.loads(body)["observation"]["mediaContents"][0]
    assert content["rawText"] == "word " * 50, body[:300]


def told_value(body: bytes) -> None:
    """A Cambrion upstream's observation, as a message for a Pupau client."""
    message = json.loads(body)[0]["message"]
    assert json.loads(message) == {"item": 0}, body[:300]


def completed(body: bytes) -> None:
    """A chat completion's words."""
    assert json.loads(body)["choices"][0]["message"]["content"] == "word " * 50, body[:300]


COMPLETION = post(
    "/v1/chat/completions",
    answers.compact({"model": "m", "messages": [{"role": "user", "content": "What is it?"}]}),
    headers=f"Authorization: Bearer {peers.LITELLM_KEY}\r\n",
)


async def same_dialect(bench: Bench) -> None:
    """A small JSON call whose dialect is the upstream's own, beside other proxies."""
    gateway = await bench.start("gateway", peers.gateway(CONFIG))
    started = await bench.start_peers(
        peers.ENVOY, peers.NGINX, peers.BARE, peers.FLOOR, peers.LITELLM_PEER
    )
    small = executed(answers.SMALL)
    turns = [Turn("small JSON", "gateway", bench.calling(gateway, small))]
    for name, program in started.items():
        call = small if name != "LiteLLM" else Call([COMPLETION], completed)
        turns.append(Turn("small JSON", name, bench.calling(program, call)))
    await bench.in_turns(turns)


async def dialect_changed(bench: Bench) -> None:
    """The same small call where the upstream speaks the other dialect, both ways."""
    gateway = await bench.start("gateway", peers.gateway(CONFIG))
    cases = {
        "same dialect": executed(answers.SMALL),
        "Cambrion in, Pupau upstream": Call([execute("talk-1")], observed_words),
        "Pupau in, Cambrion upstream": Call([query("obs-1")], told_value),
    }
    await bench.in_turns(
        [Turn(case, "gateway", bench.calling(gateway, call)) for case, call in cases.items()]
    )
