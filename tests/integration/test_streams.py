"""Streams: what arrives, when it arrives, and what becomes of it when somebody leaves."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import aiohttp
import pytest

from gateway.sse import Decoder
from tests.support.client import check_stream, read_events
from tests.support.counted import happened
from tests.support.remote import Peer, Remote, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import EVENTS, OBSERVATION, cambrion_script, frames, pupau_script
from tests.support.timing import Stopwatch, patience, promised, until

PUPAU = """
upstreams:
  far: {{kind: pupau, url: "{url}"}}
pipelines:
  plain: {{upstream: far}}
  touched:
    upstream: far
    transform: {{event: "$"}}
"""


async def test_without_transform_or_change_of_dialect_bytes_pass_through() -> None:
    written = (
        b": welcome\r\n\r\nid: 7\r\ndata: " + frames(EVENTS[:1])[6:] + b"retry: 5\n\n"
        b"event: odd\ndata: {  \ndata: }\n\n" + frames(EVENTS[1:])
    )

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        for start in range(0, len(written), 11):
            await peer.chunk(written[start : start + 11])
        await peer.end()

    async with (
        remote(script) as far,
        gateway(PUPAU.format(url=far.url)) as base,
        client(base) as session,
        session.post("/pipelines/plain/queries?sse=true", json={"request": "x"}) as response,
    ):
        assert await response.read() == written


class Paced:
    """An upstream that sends its next event only when the test lets it."""

    def __init__(self) -> None:
        self.let = asyncio.Semaphore(0)
        self.sent = 0

    async def script(self, seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        for event in EVENTS:
            await self.let.acquire()
            self.sent += 1
            await peer.chunk(frames([event]))
        await peer.end()


FORMS = pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/pipelines/plain/queries?sse=true", {}),
        ("/pipelines/touched/queries?sse=true", {}),
        ("/v1/pipelines/plain/executeSync", {"Accept": "text/event-stream"}),
    ],
)


@FORMS
async def test_the_first_event_is_out_within_five_milliseconds_of_its_coming_in(
    path: str, headers: dict[str, str]
) -> None:
    sent: list[Stopwatch] = []

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await asyncio.sleep(0.02)
        sent.append(Stopwatch())
        await peer.chunk(frames(EVENTS[:1]))
        await seen.gone.wait()

    body = {"request": "x"} if "queries" in path else {"text": "x"}
    delays = []
    async with (
        remote(script) as far,
        gateway(PUPAU.format(url=far.url)) as base,
        client(base) as session,
    ):
        for _ in range(21):
            async with session.post(path, json=body, headers=headers) as response:
                await response.content.readuntil(b"\n\n")
                delays.append(sent[-1].passed_s())
                response.close()
    assert sorted(delays)[10] < 0.005  # the middle one: upstream and client are in it, too


@FORMS
async def test_each_event_is_out_before_the_next_one_is_in(
    path: str, headers: dict[str, str]
) -> None:
    paced = Paced()
    body = {"request": "x"} if "queries" in path else {"text": "x"}
    async with (
        remote(paced.script) as far,
        gateway(PUPAU.format(url=far.url)) as base,
        client(base) as session,
    ):
        paced.let.release()
        async with session.post(path, json=body, headers=headers) as response:
            decoder = Decoder(1 << 20)
            got: list[dict[str, Any]] = []
            async for piece in response.content.iter_any():
                new = [json.loads(frame.data) for frame in decoder.feed(piece)]
                got += new
                assert min(len(got), len(EVENTS)) == paced.sent
                if new:
                    paced.let.release()
    assert got[: len(EVENTS)] == EVENTS


async def test_a_data_line_of_two_megabytes_passes() -> None:
    big = "x" * 2_000_000
    events = [
        EVENTS[0],
        {"type": "STREAMING_RESPONSE", "actorId": "c", "message": big, "layerId": "0"},
        {
            "type": "LAYER_RESPONSE",
            "layerId": "0",
            "responses": [{"actorId": "c", "message": big, "errors": [], "info": []}],
            "last": True,
        },
    ]

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        for event in events:
            await peer.chunk(frames([event]))
        await peer.end()

    async with (
        remote(script) as far,
        gateway(PUPAU.format(url=far.url)) as base,
        client(base) as session,
    ):
        for pipeline in ("plain", "touched"):
            path = f"/pipelines/{pipeline}/queries?sse=true"
            async with session.post(path, json={"request": "x"}) as response:
                assert check_stream(await read_events(response)) == {"c": big}


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("path", ["/pipelines/plain/queries?sse=true", "/pipelines/plain/queries"])
async def test_a_client_that_leaves_ends_the_work_upstream(path: str, after: int) -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        if after:
            await peer.open_stream()
            await peer.chunk(frames(EVENTS[:after]))
        await seen.gone.wait()

    async with remote(script) as far, gateway(PUPAU.format(url=far.url)) as base:
        host, port = base.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n"
            '{"request":"x"}'.encode()
        )
        await until(lambda: far.seen)
        writer.close()
        async with promised(1):
            await far.seen[0].gone.wait()
        await until(lambda: not far.open_connections)
        gone = 'outcome="client_gone",pipeline="plain"} 1.0'
        async with client(base) as session, patience():
            text = ""
            while gone not in text:  # counted once it has all been ended
                async with session.get("/metrics") as response:
                    text = await response.text()
        for line in text.splitlines():
            if line.startswith("gateway_streams_open{"):
                assert line.endswith(" 0.0")


TRANSFORMED = """
upstreams:
  far: {{kind: pupau, url: "{pupau}"}}
  docs: {{kind: cambrion, url: "{cambrion}/v1"}}
pipelines:
  shout:
    upstream: far
    transform:
      event: |
        type = "STREAMING_RESPONSE" ? $ ~> |$|{{"message": $uppercase(message)}}|
        : type = "LAYER_MESSAGE" ? () : $
  twice:
    upstream: far
    transform: {{event: "type = 'STREAMING_RESPONSE' ? [$, $] : $"}}
  silent:
    upstream: far
    transform: {{event: "()"}}
  broken:
    upstream: far
    transform: {{event: "type = 'STREAMING_RESPONSE' ? $number('x') : $"}}
  odd:
    upstream: far
    transform: {{event: "'text'"}}
  totals:
    upstream: docs
    transform:
      request: '{{"text": "Sum up: " & text, "context": $headers."x-tenant"}}'
      observation: {{file: totals.jsonata}}
  bad-request:
    upstream: docs
    transform: {{request: '{{"medias": 1}}'}}
  bad-observation:
    upstream: docs
    transform: {{observation: "$error('no such entity')"}}
server: {{port: 0, forward_headers: [X-Tenant]}}
"""


def transformed(pupau: Remote, cambrion: Remote) -> Any:
    return gateway(
        TRANSFORMED.format(pupau=pupau.url, cambrion=cambrion.url),
        files={"totals.jsonata": '{"sum": $sum(**.numberValue)}'},
    )


async def test_an_event_transform_changes_drops_and_multiplies_events() -> None:
    async with (
        remote(pupau_script) as pupau,
        remote(cambrion_script) as cambrion,
        transformed(pupau, cambrion) as base,
        client(base) as session,
    ):

        async def ask(pipeline: str) -> list[dict[str, Any]]:
            path = f"/pipelines/{pipeline}/queries?sse=true"
            async with session.post(path, json={"request": "x"}) as response:
                assert response.status == 200
                return await read_events(response)

        shouted = await ask("shout")
        assert [e["message"] for e in shouted if e["type"] == "STREAMING_RESPONSE"] == [
            "ON",
            "TWO",
            "E",
            "HELLO ",
            "WÖRLD",
        ]
        assert all(event["type"] != "LAYER_MESSAGE" for event in shouted)
        assert [e["type"] for e in await ask("twice")].count("STREAMING_RESPONSE") == 10
        assert await ask("silent") == []
        broken = await ask("broken")
        assert broken[0] == EVENTS[0]
        error = broken[-1]["responses"][0]["errors"][0]
        assert error["name"] == "TransformFailed"
        assert "pipeline broken, event transform" in error["message"]
        path = "/pipelines/odd/queries?sse=true"
        async with session.post(path, json={"request": "x"}) as response:
            assert response.status == 500
            assert "pipeline odd, event transform" in (await response.json())["message"]
        async with session.get("/metrics") as response:
            text = await response.text()
        assert (
            'gateway_transform_errors_total{pipeline="broken",reason="evaluation",stage="event"}'
            " 1.0" in text
        )


async def test_request_and_observation_transforms_stand_in_for_what_they_see() -> None:
    async with (
        remote(pupau_script) as pupau,
        remote(cambrion_script) as cambrion,
        transformed(pupau, cambrion) as base,
        client(base) as session,
    ):
        execute = "/v1/pipelines/totals/executeSync"
        headers = {"X-Tenant": "acme"}
        async with session.post(execute, json={"text": "a"}, headers=headers) as response:
            answer = await response.json()
        assert answer == {"executionId": "remote-1", "observation": {"sum": 12.5}}
        sent = json.loads(cambrion.seen[0].body)
        assert sent == {"text": "Sum up: a", "runtimeParameters": {"context": "acme"}}
        assert cambrion.seen[0].headers["x-tenant"] == "acme"
        async with session.post(
            execute, json={"text": "a"}, headers={"Accept": "text/event-stream"}
        ) as response:
            events = await read_events(response)
        assert events[-1]["observation"] == {"sum": 12.5}
        assert check_stream(events[:-1]) == {"totals": '{"sum":12.5}'}
        # The caller's own views work on the observation as it was before.
        async with session.post(execute + "/json", json={"text": "a"}) as response:
            assert await response.json() == {"total": 12.5}
        async with session.post(
            execute + "/transform", json={"text": "a", "transform": "executionId"}
        ) as response:
            assert await response.json() == OBSERVATION["executionId"]


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("bad-request", "pipeline bad-request, request transform"),
        ("bad-observation", "pipeline bad-observation, observation transform"),
    ],
)
async def test_a_transform_that_fails_is_an_error_of_that_request_alone(
    pipeline: str, message: str
) -> None:
    async with (
        remote(pupau_script) as pupau,
        remote(cambrion_script) as cambrion,
        transformed(pupau, cambrion) as base,
        client(base) as session,
    ):
        path = f"/v1/pipelines/{pipeline}/executeSync"
        async with session.post(path, json={"text": "a"}) as response:
            assert response.status == 500
            answer = await response.json()
        assert answer["code"] == "transform_failed"
        assert message in answer["message"]
        async with session.post("/v1/pipelines/totals/executeSync", json={"text": "a"}) as response:
            assert response.status == 200


async def test_an_upstream_is_asked_to_stream_exactly_when_the_caller_streams() -> None:
    async with (
        remote(pupau_script) as far,
        gateway(PUPAU.format(url=far.url)) as base,
        client(base) as session,
    ):
        stream = {"Accept": "text/event-stream"}
        for path, body, headers in [
            ("/pipelines/plain/queries?sse=true", {"request": "x"}, {}),
            ("/pipelines/touched/queries?sse=true", {"request": "x"}, {}),
            ("/v1/pipelines/plain/executeSync", {"text": "x"}, stream),
            ("/pipelines/plain/queries", {"request": "x"}, {}),
            ("/v1/pipelines/plain/executeSync", {"text": "x"}, {}),
            ("/v1/pipelines/plain/executeSync/json", {"text": "x"}, stream),
        ]:
            async with session.post(path, json=body, headers=headers) as response:
                assert response.status == 200
                await response.read()
    asked = [seen.path.rpartition("=")[2] for seen in far.seen]
    assert asked == ["true", "true", "true", "false", "false", "false"]


async def test_media_reach_a_form_and_a_body_as_they_came() -> None:
    data = bytes(range(256)) * 3000
    async with (
        remote(pupau_script) as pupau,
        remote(cambrion_script) as cambrion,
        transformed(pupau, cambrion) as base,
        client(base) as session,
    ):
        form = aiohttp.FormData({"request": "read this"}, quote_fields=False)
        form.add_field("file", data, filename="ä b.bin")
        async with session.post("/pipelines/shout/queries", data=form) as response:
            assert response.status == 200
        sent = pupau.seen[0].body
        assert b'name="file"; filename="\xc3\xa4 b.bin"\r\n' in sent
        assert b"\r\n\r\n" + data + b"\r\n--" in sent
        assert b'name="request"\r\n\r\nread this\r\n' in sent
        form = aiohttp.FormData()
        form.add_field("file", data, filename="x")
        async with session.post("/pipelines/bad-observation/queries", data=form) as response:
            assert response.status == 500
        assert base64.b64decode(json.loads(cambrion.seen[0].body)["media"][0]) == data


@pytest.mark.parametrize("pipeline", ["late", "late-in-layers"])
async def test_a_run_that_is_complete_stays_so_however_its_upstream_ends(pipeline: str) -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(frames(EVENTS))
        await asyncio.sleep(0.6)
        await peer.end()

    async with (
        remote(script) as far,
        gateway(
            f"""
upstreams: {{far: {{kind: pupau, url: "{far.url}"}}}}
pipelines:
  late: {{upstream: far, timeouts: {{idle_s: 0.2}}}}
  late-in-layers: {{layers: [[{{actor: a, upstream: far}}]], timeouts: {{idle_s: 0.2}}}}
"""
        ) as base,
        client(base) as session,
    ):
        path = f"/pipelines/{pipeline}/queries?sse=true"
        async with session.post(path, json={"request": "x"}) as response:
            events = await read_events(response)
        assert [event.get("last") for event in events].count(True) == 1
        assert not any(answer["errors"] for answer in events[-1]["responses"])
        async with session.get("/metrics") as response:
            assert 'outcome="timeout"' not in happened(await response.text())
