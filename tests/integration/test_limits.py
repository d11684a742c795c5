"""What a key may ask for, as its holder meets it: at the gateway's own socket."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.gated import Reader, Talker
from tests.support.limited import CHAT, QUERY, SYNC, Limited, configuration, key_line, limited
from tests.support.raw import raw
from tests.support.redis_server import redis_server
from tests.support.remote import remote
from tests.support.running import client
from tests.support.serving import serving
from tests.support.timing import patience


async def test_a_key_is_refused_what_goes_over_its_minute_and_told_when_to_come_back() -> None:
    async with limited(team="{requests_per_minute_max: 2}", free="") as gateway:
        for left in (1, 0):
            status, head, _ = await gateway.call("team")
            assert status == 200
            assert head["RateLimit-Policy"] == '"minute";q=2;w=60'
            assert re.fullmatch(rf'"minute";r={left};t=60', head["RateLimit"])
        calls = len(gateway.docs.calls)
        status, head, body = await gateway.call("team")
        assert status == 429
        seconds = int(head["Retry-After"])
        assert 50 < seconds <= 61
        assert head["RateLimit"] == f'"minute";r=0;t={min(seconds, 60)}'
        assert json.loads(body) == {
            "code": "rate_limited",
            "message": 'the key "team" may make 2 requests a minute (requests_per_minute_max); '
            f"try again in {seconds} s",
        }
        status, _, body = await gateway.call("team", QUERY)
        assert (status, json.loads(body)["name"]) == (429, "RateLimited")
        assert len(gateway.docs.calls) == calls
        status, head, _ = await gateway.call("free")
        assert status == 200
        assert "RateLimit" not in head
        assert await gateway.metric('gateway_limited_total{key="team",limit="minute"} 2.0')


async def test_every_call_of_a_key_counts_and_none_without_one() -> None:
    async with limited(team="{requests_per_minute_max: 5, streams_max: 1}") as gateway:
        for path in ("/healthz", "/readyz", "/metrics"):
            status, head, _ = await gateway.call("team", path, "GET")
            assert (status, "RateLimit" in head) == (200, False)
        left = []
        for method, path in (
            ("GET", "/v1/pipelines"),
            ("GET", "/v1/executions/none"),
            ("POST", "/v1/pipelines/none/executeSync"),
            ("POST", "/v1/pipelines/doc/executeAsync"),
            ("POST", f"{QUERY}?sse=perhaps"),
        ):
            _, head, _ = await gateway.call("team", path, method)
            left.append(head["RateLimit"][:13])
        assert left == [f'"minute";r={number};' for number in (4, 3, 2, 1, 0)]
        status, _, _ = await gateway.call("team", "/v1/executions", "GET")
        assert status == 429
        status, _, _ = await gateway.call("unknown")
        assert status == 401


@pytest.mark.parametrize(
    ("path", "shared"), [(CHAT, False), (f"{QUERY}?sse=true", False), (CHAT, True)]
)
async def test_streams_are_counted_while_they_are_open_however_they_end(
    path: str, shared: bool, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        more = ""
        if shared:
            redis = await stack.enter_async_context(redis_server(tmp_path))
            more = f'limits: {{store: "{redis.url}", when_away: refuse}}'
        gateway = await stack.enter_async_context(limited(more, team="{streams_max: 2}"))
        gateway.talk.gate.clear()
        async with gateway.stream("team", path) as first:
            assert first.status == 200
            assert first.headers["RateLimit-Policy"] == ('"streams";q=2;qu="concurrent-requests"')
            assert first.headers["RateLimit"] == '"streams";r=1'
            async with gateway.stream("team", path) as second:
                assert second.headers["RateLimit"] == '"streams";r=0'
                async with gateway.stream("team", path) as third:
                    assert (third.status, third.headers["Retry-After"]) == (429, "5")
                status, head, _ = await gateway.call("team")
                assert (status, head["RateLimit"]) == (200, '"streams";r=0')
                second.close()
            await left(gateway, 1)
            gateway.talk.gate.set()
            await first.read()
        await left(gateway, 2)
        async with gateway.stream("team", "/v1/executions/none/events") as failed:
            assert failed.status == 404
        await left(gateway, 2)


async def left(gateway: Limited, number: int) -> None:
    """Wait until so many streams are free."""
    async with patience():
        while True:
            _, head, _ = await gateway.call("team")
            if head.get("RateLimit") == f'"streams";r={number}':
                return
            await asyncio.sleep(0.005)


async def test_watching_an_execution_is_a_stream() -> None:
    async with limited(team="{streams_max: 1}") as gateway:
        gateway.talk.gate.clear()
        _, _, body = await gateway.call("team", "/v1/pipelines/chat/executeAsync")
        events = f"/v1/executions/{json.loads(body)['executionId']}/events"
        async with gateway.stream("team", events) as watched:
            assert (watched.status, watched.headers["RateLimit"]) == (200, '"streams";r=0')
            async with gateway.stream("team", events) as another:
                assert another.status == 429
            gateway.talk.gate.set()
            await watched.read()
        await left(gateway, 1)


async def test_a_day_has_the_bytes_of_bodies_and_answers_and_what_has_begun_goes_on() -> None:
    async with limited(team="{bytes_per_day_max: 3000}") as gateway:
        status, head, body = await gateway.call("team", data=b'{"text": "a"}')
        assert status == 200
        assert re.fullmatch(r'"day";r=3000;t=\d+', head["RateLimit"])
        used = len(body) + len(b'{"text": "a"}')
        status, head, more = await gateway.call(
            "team", data=json.dumps({"text": "b" * 4000}).encode()
        )
        assert (status, len(more) > 4000) == (200, True)
        assert re.fullmatch(rf'"day";r={3000 - used};t=\d+', head["RateLimit"])
        status, head, refused = await gateway.call("team")
        assert status == 429
        assert 0 < int(head["Retry-After"]) <= 86_400
        assert b"bytes_per_day_max" in refused


async def test_a_body_counts_as_far_as_it_came_though_nothing_could_be_made_of_it() -> None:
    async with limited(team="{bytes_per_day_max: 3000}") as gateway:
        headers = {"X-API-Key": "team", "Content-Encoding": "gzip"}
        async with gateway.session.post(SYNC, headers=headers, data=b"no gzip" * 500) as answer:
            assert answer.status == 400
        assert (await gateway.call("team"))[0] == 429


async def test_the_body_of_a_refused_request_is_not_waited_for() -> None:
    async with limited(team="{requests_per_minute_max: 1}") as gateway:
        await gateway.call("team")
        async with raw(str(gateway.session._base_url).rstrip("/")) as caller, patience():
            await caller.send(
                f"POST {SYNC} HTTP/1.1\r\nHost: x\r\nX-API-Key: team\r\n"
                "Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n".encode()
            )
            answer = await caller.read()
            assert answer.startswith(b"HTTP/1.1 429 ")


async def test_as_many_get_through_at_once_as_may() -> None:
    async with limited(team="{requests_per_minute_max: 20}") as gateway:
        answers = await asyncio.gather(*(gateway.call("team") for _ in range(60)))
        assert sorted(status for status, _, _ in answers) == [200] * 20 + [429] * 40


async def test_keys_in_a_file_are_reloaded_and_what_was_counted_stays(tmp_path: Path) -> None:
    docs, talk = Reader(), Talker()
    talk.gate.clear()
    async with remote(docs) as first, remote(talk) as second, AsyncExitStack() as stack:
        text = configuration(first.url, second.url, {}, "server: {port: 0, pre_stop_s: 0}")
        text = text.replace("keys: ", "keys: {file: keys.yaml}")
        (tmp_path / "gateway.yaml").write_text(text.replace("executions: {}", ""))
        keys = tmp_path / "keys.yaml"
        keys.write_text(
            f"- {key_line('team', '{requests_per_minute_max: 3}')}\n"
            f"- {key_line('gone', '{requests_per_minute_max: 1, streams_max: 1}')}\n"
        )
        served = await stack.enter_async_context(serving(tmp_path / "gateway.yaml"))
        session = await stack.enter_async_context(client(served.base))
        gateway = Limited(session, docs, talk)
        for _ in range(2):
            assert (await gateway.call("team"))[0] == 200
        async with gateway.stream("gone") as stream, patience():
            assert (await gateway.call("gone"))[0] == 429
            keys.write_text(
                f"- {key_line('team', '{requests_per_minute_max: 4}')}\n- {key_line('new')}\n"
            )
            loaded = await served.said("configuration loaded")
            assert loaded["keys"] == {"added": ["new"], "removed": ["gone"], "changed": ["team"]}
            status, head, _ = await gateway.call("team")
            assert (status, head["RateLimit-Policy"]) == (200, '"minute";q=4;w=60')
            assert head["RateLimit"].startswith('"minute";r=1;')
            assert [(await gateway.call(key))[0] for key in ("new", "gone")] == [200, 401]
            talk.gate.set()
            assert b"LAYER_RESPONSE" in await stream.read()
        await served.said("configuration retired")
        async with patience():
            while await gateway.metric('gateway_limited_total{key="gone",limit="minute"} 1.0'):
                await asyncio.sleep(0.01)
        keys.write_text("- {name: team, sha256: 1}\n")
        refused = await served.said("configuration refused; the one before stays live")
        (problem,) = refused["problems"]
        assert problem.startswith(f"{keys}:1:24: keys[0].sha256: ")
        assert (await gateway.call("team"))[0] == 200
