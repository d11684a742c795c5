"""Actors that name several upstreams, and what keeps upstreams steady, as callers see it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.support.client import check_stream, read_events
from tests.support.remote import Peer, Remote, Script, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import answering, frames
from tests.support.timing import promised, until

QUERY = {"request": "hi"}


def events_of(text: str) -> list[dict[str, Any]]:
    """A remote run of one layer and one actor, in three pieces and no word more."""
    labels = {"layerId": "0", "lastLayer": True, "actorId": "r"}
    begin = {"type": "LAYER_MESSAGE", "message": "…", "layerId": "0", "executionCount": 1}
    pieces = [{"type": "STREAMING_RESPONSE", "message": char, **labels} for char in text]
    response = {"actorId": "r", "message": text, "errors": [], "info": []}
    end = {"type": "LAYER_RESPONSE", "layerId": "0", "responses": [response], "last": True}
    return [begin, *pieces, end]


def saying(text: str, *, first_after_s: float = 0.0, each_after_s: float = 0.0) -> Script:
    async def script(seen: Seen, peer: Peer) -> None:
        if "sse=true" not in seen.path:
            await peer.answer(json.dumps(events_of(text)[-1]["responses"]).encode())
            return
        begin, *rest = events_of(text)
        await peer.open_stream()
        await peer.chunk(frames([begin]))  # which is not yet content
        await asyncio.sleep(first_after_s)
        for event in rest:
            await peer.chunk(frames([event]))
            await asyncio.sleep(each_after_s)
        await peer.end()

    return script


async def silent(seen: Seen, peer: Peer) -> None:
    await peer.open_stream()
    await peer.chunk(frames(events_of("")[:1]))
    await seen.gone.wait()


def dying_after(text: str) -> Script:
    """Says ``text``, piece by piece, and breaks off."""

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(frames(events_of(text)[:-1]))
        await asyncio.sleep(0.05)
        peer.cut()

    return script


@asynccontextmanager
async def pipeline(
    actor: str, *scripts: Script, upstream: str = ""
) -> AsyncIterator[tuple[aiohttp.ClientSession, list[Remote]]]:
    """A gateway with a pipeline ``p`` of one actor on upstreams ``u0``, ``u1`` and so on."""
    async with AsyncExitStack() as stack:
        remotes = [await stack.enter_async_context(remote(script)) for script in scripts]
        lines = "".join(
            f'  u{number}: {{kind: pupau, url: "{each.url}", {upstream}}}\n'
            for number, each in enumerate(remotes)
        )
        config = f"upstreams:\n{lines}pipelines:\n  p: {{{actor}}}\n"
        base = await stack.enter_async_context(gateway(config))
        yield await stack.enter_async_context(client(base)), remotes


async def streamed(session: aiohttp.ClientSession, **headers: str) -> list[dict[str, Any]]:
    async with session.post("/pipelines/p/queries?sse=true", json=QUERY, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return await read_events(answer)


async def gone(upstream: Remote) -> None:
    """Its only request is seen to be given up, as soon as that is promised."""
    async with promised(1):
        await upstream.seen[0].gone.wait()


async def metric(session: aiohttp.ClientSession, name: str) -> float:
    """The sum of all series whose line begins with ``name``."""
    async with session.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


NO_RETRY = "retries: {retries_max: 0}"


@pytest.mark.parametrize(
    "failure",
    [answering(b"{}", "500 Oops"), answering(b"{}", "503 Busy"), dying_after("")],
    ids=["500", "503", "dies before content"],
)
async def test_fallback_goes_on_to_the_next_while_nothing_was_sent_on(failure: Script) -> None:
    actor = "upstreams: [u0, u1], policy: fallback"
    async with pipeline(actor, failure, saying("fine"), upstream=NO_RETRY) as (session, remotes):
        events = await streamed(session)
        assert check_stream(events) == {"r": "fine"}
        assert [event["type"] for event in events].count("LAYER_MESSAGE") == 1
        assert [len(each.seen) for each in remotes] == [1, 1]
        taken = 'gateway_actor_taken_total{actor="p",pipeline="p",upstream="u1"}'
        assert await metric(session, taken) == 1
        assert await metric(session, "gateway_upstream_running") == 0


async def test_fallback_never_goes_on_once_content_was_sent() -> None:
    actor = "upstreams: [u0, u1]"
    async with pipeline(actor, dying_after("ab"), saying("xy")) as (session, remotes):
        events = await streamed(session)
        said = [event["message"] for event in events if event["type"] == "STREAMING_RESPONSE"]
        assert said == ["a", "b"]
        (failed,) = events[-1]["responses"]
        assert "u0" in failed["errors"][0]["message"]
        assert remotes[1].seen == []


async def test_fallback_leaves_an_upstream_that_stalls() -> None:
    actor = "upstreams: [u0, u1], timeouts: {first_event_s: 0.5, idle_s: 0.5}"
    async with pipeline(actor, silent, saying("fine")) as (session, remotes):
        # A remote that has begun its layer is alive, but has said nothing yet.
        assert check_stream(await streamed(session)) == {"r": "fine"}
        await gone(remotes[0])


async def test_fallback_leaves_an_upstream_that_stalls_in_a_call_that_is_not_streamed() -> None:
    async def mute(seen: Seen, peer: Peer) -> None:
        await seen.gone.wait()

    actor = "upstreams: [u0, u1], timeouts: {first_event_s: 0.5, total_s: 20}"
    async with pipeline(actor, mute, saying("fine")) as (session, remotes):
        async with session.post("/pipelines/p/queries", json=QUERY) as answer:
            (response,) = await answer.json()
        assert response["message"] == "fine"
        await gone(remotes[0])


async def test_a_rejection_of_the_request_is_an_answer_that_nobody_else_is_asked_for() -> None:
    rejecting = answering(b'{"message":"bad pdf"}', "400 Bad")
    async with pipeline("upstreams: [u0, u1]", rejecting, saying("x")) as (session, remotes):
        async with session.post("/pipelines/p/queries", json=QUERY) as answer:
            assert answer.status == 400
            assert "bad pdf" in (await answer.json())["message"]
        assert remotes[1].seen == []


@pytest.mark.parametrize("path", ["/pipelines/p/queries?sse=true", "/v1/pipelines/p/executeSync"])
async def test_where_all_fail_the_error_tells_of_each(path: str) -> None:
    scripts = (answering(b"{}", "500 Oops"), answering(b"{}", "503 Busy"))
    async with pipeline("upstreams: [u0, u1]", *scripts, upstream=NO_RETRY) as (session, _):
        body = QUERY if "queries" in path else {"text": "hi"}
        async with session.post(path, json=body) as answer:
            assert answer.status == 503
            message = (await answer.json())["message"]
        assert "u0: answered 500" in message
        assert "u1: answered 503" in message


async def test_a_race_is_won_by_the_first_to_say_something_and_the_rest_is_cancelled() -> None:
    scripts = (saying("late", first_after_s=5), saying("soon", first_after_s=0.1), silent)
    async with pipeline("upstreams: [u0, u1, u2], policy: race", *scripts) as (session, remotes):
        assert check_stream(await streamed(session)) == {"r": "soon"}
        for loser in (remotes[0], remotes[2]):
            await gone(loser)
        superseded = 'gateway_upstream_requests_total{kind="pupau",outcome="superseded"'
        assert await metric(session, superseded) == 2
        assert await metric(session, "gateway_upstream_running") == 0


async def test_a_race_never_mixes_what_two_upstreams_say() -> None:
    scripts = [saying(letter * 20, each_after_s=0.002) for letter in "abc"]
    async with pipeline("upstreams: [u0, u1, u2], policy: race", *scripts) as (session, _):
        for _ in range(5):
            (message,) = check_stream(await streamed(session)).values()
            assert len(message) == 20
            assert len(set(message)) == 1


async def test_a_hedge_starts_the_second_only_where_the_first_takes_long() -> None:
    actor = "upstreams: [u0, u1], policy: hedge, hedge_after_s: 0.6"
    async with pipeline(actor, saying("quick"), saying("x")) as (session, remotes):
        assert check_stream(await streamed(session)) == {"r": "quick"}
        assert remotes[1].seen == []
    async with pipeline(actor, silent, saying("helped")) as (session, remotes):
        assert check_stream(await streamed(session)) == {"r": "helped"}
        await gone(remotes[0])


async def test_what_is_sticky_stays_on_one_upstream_and_the_rest_follows_the_weights() -> None:
    config = """
    server: {{port: 0, forward_headers: [x-tenant]}}
    upstreams:
      u0: {{kind: pupau, url: "{0}"}}
      u1: {{kind: pupau, url: "{1}"}}
    pipelines:
      p:
        upstreams: [{{upstream: u0, weight: 3}}, {{upstream: u1, weight: 1}}]
        policy: weighted
        sticky: $headers."x-tenant"
    """
    async with (
        remote(saying("a")) as u0,
        remote(saying("b")) as u1,
        gateway(config.format(u0.url, u1.url)) as base,
        client(base) as session,
    ):
        said: dict[str, set[str]] = {}
        for number in range(120):
            tenant = f"tenant-{number % 40}"
            headers = {"X-Tenant": tenant}
            async with session.post("/pipelines/p/queries", json=QUERY, headers=headers) as answer:
                (response,) = await answer.json()
            said.setdefault(tenant, set()).add(response["message"])
        assert all(len(messages) == 1 for messages in said.values())
        assert 0 < len(u1.seen) < len(u0.seen)


async def test_the_least_busy_of_two_is_taken() -> None:
    actor = "upstreams: [u0, u1], policy: least_busy"
    scripts = (saying("slow", first_after_s=0.3), saying("fast"))
    async with pipeline(actor, *scripts) as (session, remotes):
        for _ in range(12):
            await streamed(session)
        assert len(remotes[0].seen) <= 2  # once to find out, and perhaps once to begin with
        assert len(remotes[1].seen) >= 10


async def test_an_open_breaker_answers_without_a_call_until_a_probe_succeeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    healthy = asyncio.Event()

    async def script(seen: Seen, peer: Peer) -> None:
        if healthy.is_set():
            await saying("back")(seen, peer)
        else:
            await answering(b"{}", "500 Oops")(seen, peer)

    upstream = "breaker: {failures: 3, open_s: 1}"
    async with pipeline("upstream: u0", script, upstream=upstream) as (session, (far,)):
        statuses = []
        for _ in range(6):
            async with session.post("/pipelines/p/queries", json=QUERY) as answer:
                statuses.append((answer.status, (await answer.json())["name"]))
                retry_after = answer.headers.get("Retry-After")
        assert statuses[:3] == [(502, "UpstreamFailed")] * 3
        assert statuses[3:] == [(503, "UpstreamUnavailable")] * 3
        assert retry_after == "1"
        assert len(far.seen) == 3
        assert await metric(session, "gateway_upstream_breaker") == 2
        refused = 'gateway_upstream_refused_total{kind="pupau",reason="breaker"'
        assert await metric(session, refused) == 3
        healthy.set()
        await asyncio.sleep(1)
        assert check_stream(await streamed(session)) == {"r": "back"}
        assert await metric(session, "gateway_upstream_breaker") == 0
    said = [record.getMessage() for record in caplog.records]
    assert said.count("upstream left alone: it failed too often") == 1
    assert said.count("upstream answers again") == 1


async def test_a_full_queue_refuses_and_what_was_admitted_goes_on() -> None:
    go_on = asyncio.Event()

    async def script(seen: Seen, peer: Peer) -> None:
        await go_on.wait()
        await saying("done")(seen, peer)

    upstream = "concurrency: {running_max: 2, waiting_max: 3}"
    async with pipeline("upstream: u0", script, upstream=upstream) as (session, (far,)):

        async def ask() -> tuple[int, str | None]:
            async with session.post("/pipelines/p/queries", json=QUERY) as answer:
                await answer.read()
                return answer.status, answer.headers.get("Retry-After")

        asked = [asyncio.create_task(ask()) for _ in range(12)]
        await until(lambda: sum(task.done() for task in asked) == 7 and len(far.seen) == 2)
        refused, admitted = await asyncio.wait(asked, timeout=0)
        assert [task.result() for task in refused] == [(503, "1")] * 7
        assert await metric(session, "gateway_upstream_waiting") == 3
        go_on.set()
        assert {await task for task in admitted} == {(200, None)}
        assert len(far.seen) == 5
        assert await metric(session, "gateway_upstream_waiting") == 0
        assert await metric(session, "gateway_upstream_running") == 0


async def test_who_waits_too_long_for_a_turn_is_refused() -> None:
    upstream = "concurrency: {running_max: 1, wait_s: 0.2}"
    async with pipeline("upstream: u0", silent, upstream=upstream) as (session, (far,)):
        first = asyncio.create_task(streamed(session))
        await until(lambda: far.seen)
        async with session.post("/pipelines/p/queries", json=QUERY) as answer:
            assert answer.status == 503
            assert (await answer.json())["name"] == "Overloaded"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_a_call_that_was_refused_is_made_again_when_it_may_be() -> None:
    asked: list[float] = []

    async def script(seen: Seen, peer: Peer) -> None:
        asked.append(asyncio.get_running_loop().time())
        if len(asked) == 1:
            await answering(b"{}", "503 Busy", headers=("Retry-After: 1",))(seen, peer)
        else:
            await saying("fine")(seen, peer)

    async with pipeline("upstream: u0", script) as (session, _):
        assert check_stream(await streamed(session)) == {"r": "fine"}
        assert await metric(session, "gateway_upstream_retries_total") == 1
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 1.0


@pytest.mark.parametrize(
    ("script", "calls"),
    [
        (answering(b"{}", "500 Oops"), 1),
        (dying_after(""), 1),
        (answering(b"{}", "400 Bad"), 1),
        (answering(b"{}", "503 Busy", headers=("Retry-After: 60",)), 1),
        (answering(b"{}", "503 Busy"), 3),
    ],
    ids=["500", "breaks off", "400", "asks for a long wait", "503"],
)
async def test_only_what_is_safe_is_made_again(script: Script, calls: int) -> None:
    upstream = "retries: {backoff_s: 0.01}"
    async with pipeline("upstream: u0", script, upstream=upstream) as (session, (far,)):
        async with session.post("/pipelines/p/queries?sse=true", json=QUERY) as answer:
            await answer.read()
        assert len(far.seen) == calls


async def test_retries_stay_within_their_budget() -> None:
    upstream = "retries: {backoff_s: 0, retries_max: 5}, breaker: {failures: 0, calls_min: 100000}"
    busy = answering(b"{}", "503 Busy")
    async with pipeline("upstream: u0", busy, upstream=upstream) as (session, (far,)):

        async def ask() -> int:
            async with session.post("/pipelines/p/queries", json=QUERY) as answer:
                await answer.read()
                return answer.status

        for _ in range(10):
            assert await asyncio.gather(*(ask() for _ in range(20))) == [503] * 20
        assert 200 < len(far.seen) <= 200 * 1.2 + 3


async def test_actors_of_a_layer_may_each_name_several() -> None:
    config = """
    upstreams:
      dead: {{kind: pupau, url: "http://127.0.0.1:1"}}
      u0: {{kind: pupau, url: "{0}"}}
      u1: {{kind: pupau, url: "{1}"}}
    pipelines:
      p:
        layers:
          - - {{actor: a, upstreams: [dead, u0]}}
            - {{actor: b, upstreams: [u0, u1], policy: race}}
    """
    async with (
        remote(saying("one")) as u0,
        remote(saying("one")) as u1,
        gateway(config.format(u0.url, u1.url)) as base,
        client(base) as session,
    ):
        for _ in range(3):
            assert check_stream(await streamed(session)) == {"a": "one", "b": "one"}
        async with session.get("/v1/pipelines") as answer:
            (described,) = await answer.json()
    assert described["status"] == "READY"
