"""The whole table: every form a caller can use, on every kind of upstream, over real sockets.

Triton is the real server; the two remote APIs are scripted.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.support.client import PNG, check_stream, read_events
from tests.support.remote import remote
from tests.support.running import client, gateway
from tests.support.scripts import cambrion_script, pupau_script
from tests.triton_server import Triton

CONFIG = """
upstreams:
  remote-cambrion: {{kind: cambrion, url: "{cambrion}/v1", api_key: upstream-key}}
  remote-pupau: {{kind: pupau, url: "{pupau}", api_key: upstream-key}}
  triton: {{kind: triton, url: "{grpc}"}}
  triton-http: {{kind: triton, url: "{http}"}}
pipelines:
  cambrion: {{upstream: remote-cambrion, pipeline: "doc 1"}}
  pupau: {{upstream: remote-pupau, pipeline: "662f"}}
  triton: {{upstream: triton, pipeline: observation, inputs: {{MEDIA: "$media"}}}}
  triton-decoupled: {{upstream: triton, pipeline: stream, inputs: {{TEXT: "text"}}}}
  triton-http: {{upstream: triton-http, pipeline: observation, inputs: {{MEDIA: "$media"}}}}
  triton-http-decoupled: {{upstream: triton-http, pipeline: stream, inputs: {{TEXT: "text"}}}}
"""

#: For each pipeline: the last layer's messages by actor, the observation as JSON.
EXPECTED: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "cambrion": ({"cambrion": '{"total":12.5}'}, {"total": 12.5}),
    "pupau": ({"c": "Hello wörld"}, {"c": "Hello wörld"}),
    "triton": ({"triton": f'{{"size":{len(PNG)}}}'}, {"size": len(PNG)}),
    "triton-decoupled": (
        {"triton-decoupled": "one two thrée"},
        {"triton-decoupled": "one two thrée"},
    ),
    "triton-http": ({"triton-http": f'{{"size":{len(PNG)}}}'}, {"size": len(PNG)}),
    "triton-http-decoupled": (
        {"triton-http-decoupled": "one two thrée"},
        {"triton-http-decoupled": "one two thrée"},
    ),
}

EXECUTE = {"text": "one two thrée", "media": [base64.b64encode(PNG).decode()]}


@pytest.fixture
async def session(triton: Triton) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        remote(cambrion_script) as cambrion,
        remote(pupau_script) as pupau,
        gateway(
            CONFIG.format(
                cambrion=cambrion.url,
                pupau=pupau.url,
                grpc=f"grpc://127.0.0.1:{triton.grpc_port}",
                http=f"http://127.0.0.1:{triton.http_port}",
            )
        ) as base,
        client(base) as session,
    ):
        yield session


def form() -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field("request", EXECUTE["text"])
    data.add_field("file", PNG, filename="a.png", content_type="image/png")
    return data


@pytest.mark.parametrize("pipeline", EXPECTED)
async def test_execute_sync(session: aiohttp.ClientSession, pipeline: str) -> None:
    async with session.post(f"/v1/pipelines/{pipeline}/executeSync", json=EXECUTE) as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        answer = await response.json()
    assert set(answer) == {"executionId", "observation"}
    observation = answer["observation"]
    assert observation["executionId"] == answer["executionId"]
    assert observation["mediaContents"][0]["documentPages"][0]["page"] == 1


@pytest.mark.parametrize("pipeline", EXPECTED)
async def test_execute_sync_json(session: aiohttp.ClientSession, pipeline: str) -> None:
    url = f"/v1/pipelines/{pipeline}/executeSync/json"
    async with session.post(url, json=EXECUTE) as response:
        assert response.status == 200
        assert await response.json() == EXPECTED[pipeline][1]


@pytest.mark.parametrize("pipeline", EXPECTED)
async def test_execute_sync_transform(session: aiohttp.ClientSession, pipeline: str) -> None:
    url = f"/v1/pipelines/{pipeline}/executeSync/transform"
    body = EXECUTE | {"transform": "mediaContents.documentPages.document.entities.label"}
    async with session.post(url, json=body) as response:
        assert response.status == 200
        assert await response.json() == next(iter(EXPECTED[pipeline][1]))


@pytest.mark.parametrize("pipeline", EXPECTED)
async def test_execute_sync_as_a_stream(session: aiohttp.ClientSession, pipeline: str) -> None:
    async with session.post(
        f"/v1/pipelines/{pipeline}/executeSync",
        json=EXECUTE,
        headers={"Accept": "text/event-stream"},
    ) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        events = await read_events(response)
    last = events.pop()
    assert check_stream(events) == EXPECTED[pipeline][0]
    assert last["type"] == "OBSERVATION"
    assert last["observation"]["executionId"] == last["executionId"]
    assert last["observation"]["mediaContents"]


@pytest.mark.parametrize("pipeline", EXPECTED)
async def test_query(session: aiohttp.ClientSession, pipeline: str) -> None:
    async with session.post(f"/pipelines/{pipeline}/queries", data=form()) as response:
        assert response.status == 200
        answer = await response.json()
    assert answer == [
        {"actorId": actor, "message": message, "errors": [], "info": []}
        for actor, message in EXPECTED[pipeline][0].items()
    ]


@pytest.mark.parametrize("pipeline", EXPECTED)
async def test_query_as_a_stream(session: aiohttp.ClientSession, pipeline: str) -> None:
    async with session.post(f"/pipelines/{pipeline}/queries?sse=true", data=form()) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        events = await read_events(response)
    assert check_stream(events) == EXPECTED[pipeline][0]
    assert events[-1]["type"] == "LAYER_RESPONSE"


@pytest.mark.parametrize("pipeline", EXPECTED)
async def test_the_same_direct_call_gives_the_same_result_every_time(
    session: aiohttp.ClientSession, pipeline: str
) -> None:
    answers = []
    for idempotent in (False, True, False):
        async with session.post(
            f"/v1/pipelines/{pipeline}/executeSync", json=EXECUTE | {"idempotent": idempotent}
        ) as response:
            answer = await response.json()
        answer["observation"].pop("executionId")
        answers.append(json.dumps(answer["observation"]))
    assert len(set(answers)) == 1
