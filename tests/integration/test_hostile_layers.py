"""What an upstream, a client or an operator does at the worst moment, and what others see of it."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_layers import ending, failing, piece, speaking, stream
from tests.support.leftovers import sums
from tests.support.raw import raw
from tests.support.remote import Peer, Script, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import answering, frames
from tests.support.serving import serving
from tests.support.timing import patience, until

#: A plain pipeline, and the same upstream as one actor of two that a layer bears the failure of.
CONFIG = """
upstreams:
  far: {{kind: pupau, url: "{far}", retries: {{retries_max: 0}}}}
  down: {{kind: pupau, url: "{down}", retries: {{retries_max: 0}}}}
pipelines:
  plain: {{upstream: far, timeouts: {{idle_s: 3}}}}
  one: {{layers: [[{{actor: a, upstream: far}}]], timeouts: {{idle_s: 3}}}}
  two:
    layers:
      - actors: [{{actor: a, upstream: far}}, {{actor: b, upstream: down}}]
        on_error: continue
  faulty:
    layers:
      - actors:
          - {{actor: a, upstream: far}}
          - {{actor: b, upstream: far, transform: {{request: '$error("not today")'}}}}
        on_error: continue
  choosy: {{upstream: far, transform: {{event: '[$[type = "STREAMING_RESPONSE"]]'}}}}
"""


NO_PAGE = {"message": "no such page", "name": "PageError"}


def errors_of(event: dict[str, Any]) -> list[str]:
    return [error["name"] for each in event["responses"] for error in each["errors"]]


async def metrics(base: str) -> str:
    async with client(base) as session, session.get("/metrics") as response:
        return await response.text()


async def silent(seen: Seen, peer: Peer) -> None:
    """A first piece, and then nothing."""
    await peer.open_stream()
    await peer.chunk(frames([piece("half of")]))
    await seen.gone.wait()


async def test_a_call_that_breaks_in_the_middle_of_its_work_is_not_made_twice() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        if len(far.seen) > 1:
            await asyncio.sleep(1.3)  # long enough to have done half of what costs money
            peer.cut()
        else:
            await peer.answer(json.dumps(ending("hi")["responses"]).encode())

    async with (
        remote(script) as far,
        gateway(CONFIG.format(far=far.url, down=far.url)) as base,
        client(base) as session,
    ):
        for status in (200, 502):  # the second on the connection that the first has left open
            async with session.post("/pipelines/plain/queries", json={"request": "x"}) as response:
                assert response.status == status
        assert len(far.seen) == 2


async def hangs(seen: Seen, peer: Peer) -> None:
    await peer.open_stream()
    await peer.chunk(frames([piece("hi"), ending("hi")]))
    await seen.gone.wait()


async def breaks(seen: Seen, peer: Peer) -> None:
    await peer.open_stream()
    await peer.chunk(frames([piece("hi"), ending("hi")]))
    await asyncio.sleep(0.05)
    peer.cut()


async def babbles(seen: Seen, peer: Peer) -> None:
    await peer.open_stream()
    await peer.chunk(frames([piece("hi"), ending("hi")]))
    while not seen.gone.is_set():
        await peer.chunk(b": more\n\n")


@pytest.mark.parametrize("pipeline", ["plain", "one"])
@pytest.mark.parametrize("script", [hangs, breaks, babbles])
async def test_a_run_that_is_complete_does_not_fail_for_how_its_stream_ends(
    pipeline: str, script: Script
) -> None:
    async with remote(script) as far, gateway(CONFIG.format(far=far.url, down=far.url)) as base:
        async with patience():
            events = await stream(base, pipeline)
        last = [event for event in events if event["type"] == "LAYER_RESPONSE"]
        assert [event["responses"][0]["message"] for event in last] == ["hi"]
        assert errors_of(last[0]) == []
        assert 'requests_total{kind="pupau",outcome="complete"' in await metrics(base)


async def test_a_stream_to_a_client_of_http_1_0_ends_with_its_connection() -> None:
    async with (
        remote(speaking("hi")) as far,
        gateway(CONFIG.format(far=far.url, down=far.url)) as base,
        raw(base) as caller,
    ):
        body = b'{"request": "x"}'
        await caller.send(
            b"POST /pipelines/plain/queries?sse=true HTTP/1.0\r\nHost: x\r\n"
            b"Connection: keep-alive\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        async with patience():
            answer = await caller.read_all()
    assert b"keep-alive" not in answer.lower()
    assert answer.endswith(frames([ending("hi")]))


async def test_a_stop_is_told_beside_a_failure_that_the_layer_bears_with() -> None:
    async with remote(silent) as far, remote(failing()) as down:
        async with gateway(CONFIG.format(far=far.url, down=down.url)) as base:
            running = asyncio.create_task(stream(base, "two"))
            async with patience():
                while "stream_events_total{" not in (text := await metrics(base)) or (
                    sums(text)["gateway_stream_events_total"] < 2
                ):
                    await asyncio.sleep(0.02)
        events = await running
    assert events[-1]["responses"][0]["message"] == "half of"
    assert "ShuttingDown" in errors_of(events[-1])


async def test_an_actors_own_transform_that_fails_is_borne_with_as_its_upstream_is() -> None:
    async with (
        remote(speaking("hi")) as far,
        gateway(CONFIG.format(far=far.url, down=far.url)) as base,
    ):
        events = await stream(base, "faulty")
    first, second = events[-1]["responses"]
    assert (first["message"], first["errors"]) == ("hi", [])
    assert second["errors"][0]["name"] == "TransformFailed"
    assert "not today" in second["errors"][0]["message"]


async def refuses(seen: Seen, peer: Peer) -> None:
    await peer.open_stream()
    await peer.chunk(frames([piece("hi"), ending("", errors=[NO_PAGE])]))
    await peer.end()


async def test_a_failure_is_told_also_where_the_event_that_told_it_was_dropped() -> None:
    async with remote(refuses) as far, gateway(CONFIG.format(far=far.url, down=far.url)) as base:
        events = await stream(base, "choosy")
    assert [event["type"] for event in events] == ["STREAMING_RESPONSE", "LAYER_RESPONSE"]
    assert "no such page" in events[-1]["responses"][0]["errors"][0]["message"]


async def test_a_remote_actors_failure_is_not_counted_as_a_client_that_left() -> None:
    responses = ending("", errors=[NO_PAGE])["responses"]
    async with (
        remote(answering(json.dumps(responses).encode())) as far,
        gateway(CONFIG.format(far=far.url, down=far.url)) as base,
        client(base) as session,
    ):
        async with session.post("/pipelines/one/queries", json={"request": "x"}) as response:
            assert response.status == 502
        text = await metrics(base)
    assert 'requests_total{kind="pupau",outcome="upstream_error",upstream="far"} 1.0' in text
    assert 'outcome="client_gone"' not in text


async def test_who_is_told_when_to_come_back_is_not_told_too_early() -> None:
    config = """
    upstreams:
      far: {{kind: pupau, url: "{far}", breaker: {{failures: 1, open_s: 60.4}}}}
    pipelines:
      plain: {{upstream: far}}
    """
    async with (
        remote(failing()) as far,
        gateway(config.format(far=far.url)) as base,
        client(base) as session,
    ):
        for status in (502, 503):
            async with session.post("/pipelines/plain/queries", json={"request": "x"}) as response:
                assert response.status == status
        assert response.headers["Retry-After"] == "61"


RELOADED = """
server: {{port: 0, watch: false}}
upstreams:
  far:
    {{kind: pupau, url: "{far}", breaker: {{failures: 1}}, concurrency: {{running_max: {number}}}}}
pipelines:
  slow: {{upstream: far, pipeline: slow}}
  quick: {{upstream: far, pipeline: quick}}
"""


async def test_the_end_of_a_replaced_upstreams_last_call_is_not_the_last_word_on_the_new_one(
    tmp_path: Path,
) -> None:
    late = asyncio.Event()

    async def script(seen: Seen, peer: Peer) -> None:
        if "/slow/" in seen.path:
            await late.wait()
            await peer.answer(b"{}", status="500 Oops")
        else:
            await peer.answer(json.dumps(ending("hi")["responses"]).encode())

    config = tmp_path / "gateway.yaml"
    async with remote(script) as far:
        config.write_text(RELOADED.format(far=far.url, number=10))
        async with serving(config) as process, client(process.base) as session:

            async def ask(pipeline: str) -> int:
                path, body = f"/pipelines/{pipeline}/queries", {"request": "x"}
                async with session.post(path, json=body) as response:
                    return response.status

            slow = asyncio.create_task(ask("slow"))
            await until(lambda: far.seen)
            config.write_text(RELOADED.format(far=far.url, number=11))
            process.tell(signal.SIGHUP)
            await process.said("configuration loaded")
            assert await ask("quick") == 200
            late.set()
            assert await slow == 502
            assert await ask("quick") == 200
            text = await metrics(process.base)
    assert 'gateway_upstream_breaker{kind="pupau",upstream="far"} 0.0' in text
    assert 'gateway_upstream_up{kind="pupau",upstream="far"} 1.0' in text
