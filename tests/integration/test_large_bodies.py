"""Large documents: they arrive whole, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import aiohttp
import pytest

from tests.support.client import read_events
from tests.support.remote import Peer, Seen, remote
from tests.support.running import client, gateway
from tests.support.timing import Stopwatch, every_time

CONFIG = """
transforms: {{large: {{over_bytes: {over_bytes}}}}}
upstreams:
  docs: {{kind: cambrion, url: "{url}/v1"}}
pipelines:
  doc: {{upstream: docs}}
  totals: {{upstream: docs, transform: {{observation: "$sum(**.numberValue)"}}}}
  broken: {{upstream: docs, transform: {{observation: "$error('no')"}}}}
"""


def observation(entities: int) -> bytes:
    """An observation of so many labelled numbers, about 100 bytes each."""
    content = {
        "id": "m",
        "mediaId": "m",
        "documentPages": [
            {
                "page": 1,
                "document": {
                    "id": "p",
                    "entities": [
                        {
                            "id": f"e-{number}",
                            "block": {"text": str(number)},
                            "label": f"n{number}",
                            "type": "NUMBER",
                            "data": {"numberValue": number},
                        }
                        for number in range(entities)
                    ],
                },
            }
        ],
    }
    return json.dumps({"executionId": "e", "mediaContents": [content], "documents": []}).encode()


def answering(entities: int) -> Any:
    answer = b'{"executionId":"e","observation":' + observation(entities) + b"}"

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.answer(answer)

    return script


async def all_forms(session: aiohttp.ClientSession, pipeline: str) -> list[Any]:
    path, body = f"/v1/pipelines/{pipeline}/executeSync", {"text": "x"}
    answers = []
    async with session.post(path, json=body) as response:
        answers.append(await response.json())
    async with session.post(path + "/json", json=body) as response:
        answers.append(await response.json())
    async with session.post(path, json=body, headers={"Accept": "text/event-stream"}) as response:
        answers.append(await read_events(response))
    query = f"/pipelines/{pipeline}/queries"
    async with session.post(query, json={"request": "x"}) as response:
        answers.append(await response.json())
    return answers


async def test_where_an_expression_runs_changes_nothing_of_its_result() -> None:
    results = []
    async with remote(answering(100)) as far:
        for over_bytes in (1024, 10_000_000):
            config = CONFIG.format(url=far.url, over_bytes=over_bytes)
            async with gateway(config) as base, client(base) as session:
                results.append([await all_forms(session, name) for name in ("doc", "totals")])
                path = "/v1/pipelines/broken/executeSync"
                async with session.post(path, json={"text": "x"}) as response:
                    assert response.status == 500
                    answer = await response.json()
                assert "pipeline broken, observation transform" in answer["message"]
                assert answer["code"] == "transform_failed"
    assert results[0] == results[1]
    assert results[0][0][1]["n99"] == 99
    assert results[0][1][0]["observation"] == 4950


async def longest_gap(stop: asyncio.Event) -> float:
    """The longest time that the loop was busy with one thing, seconds."""
    longest = 0.0
    while not stop.is_set():
        gap = Stopwatch()
        await asyncio.sleep(0.002)
        longest = max(longest, gap.passed_s())
    return longest


@pytest.mark.parametrize("view", ["", "/json"])
@every_time
async def test_a_large_observation_leaves_the_loop_to_others(view: str) -> None:
    script = answering(20_000)  # about 3 MB
    async with (
        remote(script) as far,
        gateway(CONFIG.format(url=far.url, over_bytes=131072)) as base,
        client(base) as session,
    ):
        path = f"/v1/pipelines/totals/executeSync{view}"
        async with session.post(path, json={"text": "x"}) as response:  # warms up
            await response.read()
        stop = asyncio.Event()
        ticking = asyncio.create_task(longest_gap(stop))
        async with session.post(path, json={"text": "x"}) as response:
            assert response.status == 200
            text = await response.read()
        stop.set()
        # Upstream, gateway and client share this loop; in it, the mapping alone takes longer.
        assert await ticking < 0.1
    if view:
        assert json.loads(text)["n19999"] == 19999
    else:
        assert json.loads(text)["observation"] == sum(range(20_000))


@every_time
async def test_twenty_megabytes_of_base64_arrive_whole_and_leave_the_loop_to_others() -> None:
    data = bytes(range(256)) * (20 * 1024 * 1024 // 256)
    body = json.dumps({"media": [base64.b64encode(data).decode()]}).encode()
    async with (
        remote(answering(1)) as far,
        gateway(CONFIG.format(url=far.url, over_bytes=131072)) as base,
        client(base) as session,
    ):
        stop = asyncio.Event()
        ticking = asyncio.create_task(longest_gap(stop))
        async with session.post("/v1/pipelines/doc/executeSync", data=body) as response:
            assert response.status == 200
        stop.set()
        gap = await ticking
        sent = json.loads(far.seen[0].body)
    assert base64.b64decode(sent["media"][0]) == data
    assert gap < 0.25  # the scripted upstream's own joining of 27 MB included
