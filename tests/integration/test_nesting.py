"""JSON that nests as deep as can be read, and deeper: somebody's fault, and never the gateway's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.support.remote import Peer, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import OBSERVATION

pytestmark = pytest.mark.usefixtures("usual_stack")

CONFIG = """
upstreams:
  docs: {{kind: cambrion, url: "{url}/v1", breaker: {{failures: 0, calls_min: 10000}}}}
  talk: {{kind: pupau, url: "{url}", breaker: {{failures: 0, calls_min: 10000}}}}
pipelines:
  layers:
    layers:
      - - {{actor: first, upstream: docs, transform: {{request: "$"}}}}
      - - {{actor: second, upstream: talk}}
  plain: {{upstream: docs, transform: {{observation: "$"}}}}
  chat: {{upstream: talk}}
  changed: {{upstream: talk, transform: {{event: "[$]"}}}}
"""
#: Where the stack ends depends on how much of it is used. Somewhere here it does.
DEPTHS = range(880, 1020)


def nested(levels: int, start: str = "[", end: str = "]") -> str:
    return start * levels + "1" + end * levels


@asynccontextmanager
async def running(answer: Callable[[bool], bytes]) -> AsyncIterator[aiohttp.ClientSession]:
    """A gateway whose upstreams answer as ``answer`` says, a query or an execute call."""

    async def script(seen: Seen, peer: Peer) -> None:
        query = "queries" in seen.path
        if "sse=true" in seen.path:
            await peer.answer(answer(query), content_type="text/event-stream")
        else:
            await peer.answer(answer(query))

    async with (
        remote(script) as far,
        gateway(CONFIG.format(url=far.url)) as base,
        client(base) as session,
    ):
        yield session


def usual(query: bool) -> bytes:
    if query:
        return b'[{"actorId":"a","message":"m","errors":[],"info":[]}]'
    return json.dumps({"observation": OBSERVATION}).encode()


@pytest.mark.parametrize("pipeline", ["layers", "plain"])
@pytest.mark.parametrize("field", ["runtimeParameters", "observation"])
async def test_a_request_that_nests_too_deep_is_the_callers_fault(
    pipeline: str, field: str
) -> None:
    statuses = []
    async with running(usual) as session:
        for depth in DEPTHS:
            body = f'{{"text":"x","{field}":{{"a":{nested(depth)}}}}}'
            path = f"/v1/pipelines/{pipeline}/executeSync/json"
            async with session.post(path, data=body) as response:
                statuses.append(response.status)
                if response.status == 400:
                    assert "nested too deeply" in (await response.json())["message"]
    assert set(statuses) == {200, 400}


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        ("/pipelines/layers/queries?sse=true", {200, 502}),
        ("/pipelines/chat/queries", {200, 502}),
        # What is read at the last level, an expression can put into another list.
        ("/pipelines/changed/queries?sse=true", {200, 500, 502}),
        ("/v1/pipelines/chat/executeSync", {200, 502}),
        ("/v1/pipelines/plain/executeSync/json", {200, 502}),
    ],
)
async def test_an_answer_that_nests_too_deep_is_the_upstreams_fault(
    path: str, statuses: set[int]
) -> None:
    depth = 0

    def answer(query: bool) -> bytes:
        if not query:
            return f'{{"observation":{{"mediaContents":[],"a":{nested(depth)}}}}}'.encode()
        responses = f'[{{"actorId":"a","message":"m","info":{nested(depth)}}}]'
        if "sse=true" not in path:
            return responses.encode()
        event = f'{{"type":"X","layerId":"0","a":{nested(depth)}}}'
        last = f'{{"type":"LAYER_RESPONSE","layerId":"0","responses":{responses},"last":true}}'
        return f"data: {event}\n\ndata: {last}\n\n".encode()

    found = set()
    async with running(answer) as session:
        for depth in DEPTHS:
            async with session.post(
                path, json={"text": "x"} if "v1" in path else {"request": "x"}
            ) as response:
                text = await response.text()
                found.add(response.status)
                assert "the gateway failed" not in text, depth
    assert found <= statuses
