"""Clients and upstreams at the edge of what HTTP and the dialects allow."""

from __future__ import annotations

import asyncio
import io
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from PIL import Image

from tests.support.client import read_events
from tests.support.remote import Peer, Remote, Script, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import EVENTS, OBSERVATION, answering, frames
from tests.support.timing import Stopwatch, patience

CONFIG = """
bounds: {{pdf_pages_max: 3}}
upstreams:
  docs: {{kind: cambrion, url: "{url}/v1"}}
  talk: {{kind: pupau, url: "{url}"}}
pipelines:
  mapped: {{upstream: docs, pipeline: doc, mappings: {{request_to_cambrion: "{{'text': text}}"}}}}
  doc: {{upstream: docs, timeouts: {{first_event_s: 0.5}}}}
  patient: {{upstream: docs, timeouts: {{first_event_s: 0.2, total_s: 5}}}}
  hasty: {{upstream: docs, timeouts: {{total_s: 0.3}}}}
  chat: {{upstream: talk, timeouts: {{first_event_s: 0.5, idle_s: 0.5}}}}
  touched:
    upstream: talk
    timeouts: {{first_event_s: 0.5, idle_s: 0.5}}
    transform: {{event: "$"}}
  hushed: {{upstream: talk, transform: {{event: "type = 'LAYER_MESSAGE' ? $"}}}}
  bad-mapping:
    upstream: talk
    mappings: {{responses_to_observation: '{{"mediaContents": 1}}'}}
  greedy: {{upstream: docs, mappings: {{request_to_cambrion: '{{"media": ["x"]}}'}}}}
  moved: {{upstream: docs, transform: {{request: '{{"pipeline": "other"}}'}}}}
"""


@asynccontextmanager
async def running(script: Script) -> AsyncIterator[tuple[Remote, aiohttp.ClientSession]]:
    async with (
        remote(script) as far,
        gateway(CONFIG.format(url=far.url)) as base,
        client(base) as session,
    ):
        yield far, session


async def good(seen: Seen, peer: Peer) -> None:
    answer: Any = {"executionId": "e", "observation": OBSERVATION}
    if "queries" in seen.path:
        answer = EVENTS[-1]["responses"]
    await peer.answer(json.dumps(answer).encode())


async def test_a_body_of_many_keys_costs_no_more_than_its_size() -> None:
    parameters = ",".join(f'"{number:x}":1' for number in range(60_000))
    body = f'{{"text":"x","runtimeParameters":{{{parameters},"0":1}}}}'
    async with running(good) as (_, session):
        answered = Stopwatch(family=True)
        async with session.post("/v1/pipelines/doc/executeSync", data=body) as response:
            assert response.status == 400
            assert 'the key "0" more than once' in (await response.json())["message"]
        assert answered.passed_s() < 5  # a quadratic search takes a minute


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"observation":{"a":%s}}' % ("1" * 5000), "number"),
        ('{"observation":{"a":1e400}}', "observation: "),
        ('{"observation":{"mediaContents":5}}', "observation: "),
        ('{"observation":{"mediaContents":[{"mediaId":5}]}}', "observation: "),
    ],
)
async def test_an_observation_that_cannot_be_used_is_refused_before_the_run(
    body: str, message: str
) -> None:
    async with running(good) as (far, session):
        async with session.post("/v1/pipelines/doc/executeSync", data=body) as response:
            assert response.status == 400
            assert message in (await response.json())["message"]
        assert far.seen == []


async def test_a_text_too_long_for_the_mapping_is_the_callers_error() -> None:
    body = {"text": "x" * 17_000_000}
    async with (
        running(good) as (_, session),
        session.post("/v1/pipelines/mapped/executeSync", json=body) as response,
    ):
        assert response.status == 413
        assert "output_bytes_max" in (await response.json())["message"]


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=x", "\udcff"])
async def test_metrics_come_whatever_is_asked_for(accept: str) -> None:
    async with running(good) as (_, session):
        host, port = str(session._base_url).removeprefix("http://").strip("/").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        header = accept.encode("utf-8", "surrogateescape")
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: " + header + b"\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"Content-Encoding", b"\xff"), (b"X-API-Key", b"\xff"), (b"X-Request-Id", b"\xff")],
)
async def test_header_bytes_that_are_not_text_break_nothing(name: bytes, value: bytes) -> None:
    async with running(good) as (_, session):
        host, port = str(session._base_url).removeprefix("http://").strip("/").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/pipelines/doc/executeSync HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            + name
            + b": "
            + value
            + b'\r\nContent-Length: 12\r\n\r\n{"text":"x"}'
        )
        answer = await reader.read()
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if name == b"Content-Encoding":
        assert head.startswith(b"HTTP/1.1 415")
        assert set(json.loads(body)) == {"code", "message"}
    else:
        assert head.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("expected", ["100-continue", "more"])
async def test_a_client_that_waits_for_the_word_to_go_on_gets_it(expected: str) -> None:
    async with running(good) as (_, session):
        host, port = str(session._base_url).removeprefix("http://").strip("/").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST /v1/pipelines/doc/executeSync HTTP/1.1\r\nHost: x\r\n"
            f"Content-Length: 12\r\nExpect: {expected}\r\n\r\n".encode()
        )
        async with patience():
            first = await reader.readuntil(b"\r\n\r\n")
            if expected == "more":
                assert first.startswith(b"HTTP/1.1 417")
            else:
                assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(b'{"text":"x"}')
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [("²", None), ("9" * 400, None), ("99999999", "86400"), ("soon", None), ("-5", None)],
)
async def test_a_retry_after_that_makes_no_sense_is_not_passed_on(
    given: str, passed_on: str | None
) -> None:
    script = answering(b"", "429 Busy", headers=(f"Retry-After: {given}",))
    async with (
        running(script) as (_, session),
        session.post("/v1/pipelines/doc/executeSync", json={"text": "x"}) as response,
    ):
        assert response.status == 429
        assert response.headers.get("Retry-After") == passed_on


async def silent(seen: Seen, peer: Peer) -> None:
    await seen.gone.wait()


async def test_a_definition_that_does_not_come_is_a_timeout() -> None:
    async with (
        running(silent) as (_, session),
        session.get("/v1/pipelines/doc/definition") as response,
    ):
        assert response.status == 504
        assert "upstream docs" in (await response.json())["message"]


async def test_where_the_total_is_set_it_alone_bounds_a_call() -> None:
    async def slow(seen: Seen, peer: Peer) -> None:
        await asyncio.sleep(0.6)
        await good(seen, peer)

    async with running(slow) as (_, session):
        path = "/v1/pipelines/{}/executeSync"
        for pipeline, status in (("patient", 200), ("hasty", 504), ("doc", 504)):
            async with session.post(path.format(pipeline), json={"text": "x"}) as response:
                assert response.status == status


@pytest.mark.parametrize("pipeline", ["chat", "touched"])
async def test_comments_keep_a_stream_alive_but_are_no_first_event(pipeline: str) -> None:
    async def pinging(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        if seen.headers["x-request-id"] == "never":
            while not seen.gone.is_set():
                await peer.chunk(b": ping\n\n")
                await asyncio.sleep(0.1)
        await peer.chunk(frames(EVENTS[:1]))
        for _ in range(8):
            await asyncio.sleep(0.1)
            await peer.chunk(b": ping\n\n")
        await peer.chunk(frames(EVENTS[1:]))
        await peer.end()

    path = f"/pipelines/{pipeline}/queries?sse=true"
    async with running(pinging) as (_, session):
        async with session.post(path, json={"request": "x"}) as response:
            assert await read_events(response) == EVENTS
        headers = {"X-Request-Id": "never"}
        async with session.post(path, json={"request": "x"}, headers=headers) as response:
            text = await response.text()
            assert "first_event_s" in text
        async with session.get("/metrics") as response:
            lines = (await response.text()).splitlines()
    labels = f'dialect="pupau",mode="query_stream",pipeline="{pipeline}"'
    assert f"gateway_first_event_seconds_count{{{labels}}} 1.0" in lines


async def test_an_error_closes_the_layer_that_was_running() -> None:
    async def cutting(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(frames(EVENTS[:7]))
        await asyncio.sleep(0.05)
        peer.cut()

    async with running(cutting) as (_, session):
        for pipeline in ("chat", "touched"):
            path = f"/pipelines/{pipeline}/queries?sse=true"
            async with session.post(path, json={"request": "x"}) as response:
                events = await read_events(response)
            assert events[:7] == EVENTS[:7]
            assert (events[7]["layerId"], events[7]["last"]) == ("1", True)


async def test_what_follows_the_last_layer_does_not_spoil_the_run() -> None:
    usage = {"type": "USAGE", "tokens": 7, "note": 'with "last" in it'}

    async def talkative(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        for event in [*EVENTS, usage]:
            await peer.chunk(frames([event]))
        await peer.end()

    async with running(talkative) as (_, session):
        for pipeline in ("chat", "touched"):
            path = f"/pipelines/{pipeline}/queries?sse=true"
            async with session.post(path, json={"request": "x"}) as response:
                assert await read_events(response) == [*EVENTS, usage]


async def test_a_failure_is_told_even_where_the_transform_drops_its_event() -> None:
    failed = {
        "type": "LAYER_RESPONSE",
        "layerId": "0",
        "responses": [
            {"actorId": "a", "message": "", "errors": [{"message": "broken", "name": "E"}]}
        ],
        "last": True,
    }

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(frames([EVENTS[0], failed]))
        await peer.end()

    async with running(script) as (_, session):
        path = "/pipelines/hushed/queries?sse=true"
        async with session.post(path, json={"request": "x"}) as response:
            first, last = await read_events(response)
    assert first == EVENTS[0]
    assert "actor a failed: broken (E)" in last["responses"][0]["errors"][0]["message"]


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("bad-mapping", "responses_to_observation transform"),
        ("greedy", 'the gateway adds "media" itself'),
        ("moved", "pipeline cannot be changed"),
    ],
)
async def test_an_operators_mistake_is_not_blamed_on_the_caller(
    pipeline: str, message: str
) -> None:
    async with (
        running(good) as (_, session),
        session.post(f"/v1/pipelines/{pipeline}/executeSync", json={"text": "x"}) as response,
    ):
        assert response.status == 500
        answer = await response.json()
        assert answer["code"] == "transform_failed"
        assert f"pipeline {pipeline}" in answer["message"]
        assert message in answer["message"]


async def test_an_expression_that_does_not_parse_runs_nothing() -> None:
    async with running(good) as (far, session):
        path = "/v1/pipelines/doc/executeSync/transform"
        body = {"text": "x", "transform": "a +\n b ) c"}
        async with session.post(path, json=body) as response:
            assert response.status == 400
            assert "line 2, column" in (await response.json())["message"]
        assert far.seen == []


async def test_a_kept_connection_that_went_stale_costs_the_caller_nothing() -> None:
    ports: dict[object, int] = {}

    async def closing(seen: Seen, peer: Peer) -> None:
        ports[peer.writer] = ports.get(peer.writer, 0) + 1
        if ports[peer.writer] == 2:
            peer.cut()
        else:
            await good(seen, peer)

    async with running(closing) as (far, session):
        for _ in range(6):
            path = "/v1/pipelines/doc/executeSync"
            async with session.post(path, json={"text": "x"}) as response:
                assert response.status == 200
        assert len(far.seen) == 11  # each connection served one, and lost the next


async def test_where_all_kept_connections_went_stale_a_new_one_is_made() -> None:
    requests: dict[object, int] = {}

    async def script(seen: Seen, peer: Peer) -> None:
        requests[peer.writer] = requests.get(peer.writer, 0) + 1
        if requests[peer.writer] == 2:
            peer.cut()
        else:
            await asyncio.sleep(0.1)  # so that several connections are open at a time
            await good(seen, peer)

    async def ask(session: aiohttp.ClientSession) -> int:
        path = "/v1/pipelines/doc/executeSync"
        async with session.post(path, json={"text": "x"}) as response:
            return response.status

    async with running(script) as (far, session):
        assert await asyncio.gather(*(ask(session) for _ in range(4))) == [200] * 4
        assert await ask(session) == 200  # all four have gone stale, and one of them was tried
        assert len(far.seen) == 6


async def test_a_request_is_sent_twice_at_the_most() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        if len(far.seen) == 1:
            await good(seen, peer)
        else:
            peer.cut()

    async with running(script) as (far, session):
        path = "/v1/pipelines/doc/executeSync"
        for status, sent in ((200, 1), (502, 3)):
            async with session.post(path, json={"text": "x"}) as response:
                assert response.status == status
            assert len(far.seen) == sent


async def test_headers_of_the_upstreams_connection_go_no_further() -> None:
    own = ("Keep-Alive: timeout=9", "Trailer: X-Sum", "Proxy-Authenticate: Basic", "X-Inner: 1")
    answer = json.dumps({"executionId": "e", "observation": OBSERVATION}).encode()
    async with (
        running(answering(answer, headers=own)) as (_, session),
        session.post("/v1/pipelines/doc/executeSync", json={"text": "x"}) as response,
    ):
        assert response.status == 200
        for name in ("Keep-Alive", "Trailer", "Proxy-Authenticate", "X-Inner"):
            assert name not in response.headers


async def test_pages_are_bounded_for_the_whole_request() -> None:
    pages = [Image.new("L", (72, 72)) for _ in range(2)]
    file = io.BytesIO()
    pages[0].save(file, "PDF", save_all=True, append_images=pages[1:])
    media = [b64encode(file.getvalue()).decode()] * 2
    async with running(good) as (far, session):
        body = {"media": media, "tryImageConversion": True}
        async with session.post("/v1/pipelines/chat/executeSync", json=body) as response:
            assert response.status == 400
            assert "4 PDF pages; at most 3" in (await response.json())["message"]
        assert far.seen == []


@pytest.mark.parametrize(
    ("accept", "streamed"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("application/json, text/event-stream;q=0.5", True),
        ("text/event-stream;q=0", False),
        ("application/json", False),
    ],
)
async def test_a_stream_comes_where_it_is_accepted(accept: str, streamed: bool) -> None:
    async with (
        running(good) as (_, session),
        session.post(
            "/v1/pipelines/doc/executeSync", json={"text": "x"}, headers={"Accept": accept}
        ) as response,
    ):
        assert (response.content_type == "text/event-stream") == streamed


async def test_a_fast_transformed_stream_leaves_room_for_others() -> None:
    many = frames(EVENTS[1:2]) * 2000

    async def flooding(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        while not seen.gone.is_set():
            await peer.chunk(many)

    async with running(flooding) as (_, session):
        path = "/pipelines/touched/queries?sse=true"
        gaps = []
        async with session.post(path, json={"request": "x"}) as response:

            async def read() -> None:
                async for _ in response.content.iter_any():
                    pass

            reading = asyncio.create_task(read())
            for _ in range(100):
                gap = Stopwatch()
                await asyncio.sleep(0.002)
                gaps.append(gap.passed_s())
            reading.cancel()
    # Upstream, gateway and reader share this loop: most turns are short all the same.
    assert sorted(gaps)[len(gaps) // 2] < 0.1


@pytest.mark.parametrize("pipeline", ["chat", "touched"])
async def test_what_is_no_text_in_an_upstreams_event_does_not_end_the_stream(pipeline: str) -> None:
    first = b'data: {"type":"LAYER_MESSAGE","message":"m","layerId":"0","note":"\xff"}\n\n'

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(first + frames(EVENTS[-1:]))
        await peer.end()

    async with running(script) as (_, session):
        path = f"/pipelines/{pipeline}/queries?sse=true"
        async with session.post(path, json={"request": "x"}) as response:
            text = (await response.read()).decode("utf-8", "replace")  # as the rules have it
    assert '"note":"\N{REPLACEMENT CHARACTER}"' in text
    assert '"last": true' in text or '"last":true' in text
    assert '"errors":[{' not in text


async def test_a_file_name_in_a_character_set_that_cannot_be_is_no_name() -> None:
    form = (
        b"--b\r\nContent-Disposition: form-data; name=file; filename*=utf\0-8''x\r\n\r\nhi\r\n"
        b"--b--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with running(good) as (far, session):
        async with session.post("/pipelines/chat/queries", data=form, headers=headers) as response:
            assert response.status == 200
        assert b'filename="media-1.txt"' in far.seen[0].body


async def test_what_follows_the_last_layer_spoils_nothing_in_whichever_read_it_comes() -> None:
    broken = b'data: {"type":"USAGE","last":\n\n'

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        pieces = [frames(EVENTS[-1:]), broken]
        for piece in [b"".join(pieces)] if len(far.seen) == 1 else pieces:
            await peer.chunk(piece)
            await asyncio.sleep(0.02)
        await peer.end()

    async with running(script) as (far, session):
        for _ in range(2):
            path = "/pipelines/chat/queries?sse=true"
            async with session.post(path, json={"request": "x"}) as response:
                text = await response.text()
            assert '"last": true' in text or '"last":true' in text
            assert '"errors":[{' not in text
