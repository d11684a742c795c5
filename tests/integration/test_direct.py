"""The short way of a plain call comes to what the long way does, for client and upstream alike.

The one pipeline is direct. The other names the default mapping as its own, which changes nothing
but that its calls take the long way.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from gateway.assembly import Assembly
from gateway.config import Config
from gateway.metrics import Metrics
from tests.support.remote import Peer, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import OBSERVATION

MAPPING = Path(__file__).parents[2] / "transforms" / "request_to_cambrion.jsonata"
CONFIG = """
    server: {{port: 0, forward_headers: [x-tenant]}}
    upstreams: {{far: {{kind: cambrion, url: "{url}", api_key: up, retries: {{retries_max: 0}}}}}}
    pipelines:
      short: {{upstream: far, pipeline: p}}
      long:
        upstream: far
        pipeline: p
        mappings: {{request_to_cambrion: {{file: same.jsonata}}}}
"""
OF_OWN = json.dumps({"executionId": "e-1", "observation": OBSERVATION}).encode()
_ENDED = re.compile(r"^gateway_requests_total\{(.*)\} 1\.0$", re.MULTILINE)
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 32).decode()

BODIES: dict[str, Any] = {
    "text": {"text": "What is it?"},
    "everything": {
        "text": "What is it?",
        "tag": "t",
        "media": [PNG],
        "observation": OBSERVATION,
        "runtimeParameters": {"context": "c", "depth": 3},
        "transient": True,
        "idempotent": True,
        "tryImageConversion": True,
        "trySimpleText": True,
    },
    "observation alone": {"observation": OBSERVATION},
    "wrong": {"text": 3},
}
ANSWERS: dict[str, tuple[str, bytes]] = {
    "with an ID": ("200 OK", OF_OWN),
    "without one": ("200 OK", json.dumps({"observation": OBSERVATION}).encode()),
    "not an answer": ("200 OK", b'{"observation": 3}'),
    "cut text": ("200 OK", b'{"observation": {'),
    "refused": ("400 Bad Request", b'{"message": "no"}'),
    "unknown": ("404 Not Found", b'{"message": "no such pipeline"}'),
    "busy": ("503 Service Unavailable", b"{}"),
    "failed": ("500 Internal Server Error", b"oh no"),
    "none": ("", b""),
}


async def outcome(
    session: aiohttp.ClientSession, pipeline: str, body: Any
) -> tuple[int, dict[str, str], Any]:
    headers = {"X-Tenant": "acme", "X-Request-Id": "r-1"}
    path = f"/v1/pipelines/{pipeline}/executeSync"
    async with session.post(path, json=body, headers=headers) as response:
        answer = await response.json()
        if answer.get("executionId", "e-1") != "e-1":
            answer["executionId"] = str(uuid.UUID(answer["executionId"]).version)
        kept = {k: v for k, v in response.headers.items() if k not in ("Date", "Content-Length")}
        return response.status, kept, answer


def asked(seen: Seen) -> tuple[str, dict[str, str], Any]:
    headers = {k: v for k, v in seen.headers.items() if k != "content-length"}
    return seen.path, headers, json.loads(seen.body)


async def test_only_what_leaves_nothing_to_do_goes_the_short_way() -> None:
    same = MAPPING.read_text()
    far = {"upstream": "far"}
    pipelines: dict[str, dict[str, Any]] = {
        "plain": far,
        "timed": {**far, "timeouts": {"total_s": 3}},
        "event": {**far, "transform": {"event": "$"}},
        "request": {**far, "transform": {"request": "$"}},
        "observation": {**far, "transform": {"observation": "$"}},
        "mapping": {**far, "mappings": {"request_to_cambrion": same}},
        "talk": {"upstream": "talk"},
        "either": {"upstreams": [far, {"upstream": "near"}]},
        "layered": {"layers": [{"actors": [{"actor": "a", **far}]}]},
    }
    upstreams = {
        name: {"kind": kind, "url": "http://127.0.0.1:1"}
        for name, kind in (("far", "cambrion"), ("near", "cambrion"), ("talk", "pupau"))
    }
    config = Config.model_validate({"upstreams": upstreams, "pipelines": pipelines})
    async with aiohttp.ClientSession() as session:
        metrics = Metrics(CollectorRegistry())
        site = await Assembly(session=session, metrics=metrics, clock=monotonic).assemble(config)
        short = {name for name, route in site.routes.items() if route.direct}
        await site.retire()
    assert short == {"plain", "timed", "event"}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("body", BODIES)
async def test_both_ways_ask_and_answer_the_same(body: str, answer: str) -> None:
    status, text = ANSWERS[answer]

    async def script(seen: Seen, peer: Peer) -> None:
        if not status:
            peer.cut()
            return
        await peer.answer(text, status)

    files = {"same.jsonata": MAPPING.read_text()}
    async with remote(script) as far:
        config = CONFIG.format(url=far.url)
        async with gateway(config, files=files) as base, client(base) as session:
            short = await outcome(session, "short", BODIES[body])
            long = await outcome(session, "long", BODIES[body])
            assert short == long
            assert [asked(seen) for seen in far.seen[:1]] == [asked(seen) for seen in far.seen[1:]]
            async with session.get("/metrics") as response:
                counted = _ENDED.findall(await response.text())
    ends = {
        name: [line.replace(name, "p") for line in counted if f'"{name}"' in line]
        for name in ("short", "long")
    }
    assert len(ends["short"]) == 1
    assert ends["short"] == ends["long"]
