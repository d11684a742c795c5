"""Expressions that clients send, through the running gateway: hostile ones hurt only themselves."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from gateway.sse import Decoder
from tests.support.remote import Peer, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import EVENTS, OBSERVATION, frames
from tests.support.timing import ROOM, Stopwatch

LIMIT_S = 0.5
CONFIG = """
transforms: {{engine: {engine}, client: {{time_s: 0.5, processes: 2, waiting_max: 2}}}}
upstreams:
  docs: {{kind: cambrion, url: "{url}/v1"}}
  talk: {{kind: pupau, url: "{url}"}}
pipelines:
  doc: {{upstream: docs}}
  chat: {{upstream: talk}}
"""

BOMBS = {
    "endless recursion": "($f := function(){1 + $f()}; $f())",
    "endless tail recursion": "($f := function(){$f()}; $f())",
    "padding": '$length($pad("", 300000000, "x"))',
    "string doubling": '($d := function($s,$n){$n=0?$s:$d($s&$s,$n-1)}; $length($d("x",33)))',
    "splitting": '$count($split($pad("", 20000000, "x"), ""))',
}
TRIES = 3
BACKTRACKING = '$contains("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", /^(a+)+$/)'


async def script(seen: Seen, peer: Peer) -> None:
    """An observation at once; or an event each 10 ms until the client goes."""
    if seen.path.endswith("executeSync"):
        answer = {"executionId": "e", "observation": OBSERVATION}
        await peer.answer(json.dumps(answer).encode())
        return
    await peer.open_stream()
    while not seen.gone.is_set():
        await peer.chunk(frames([EVENTS[1]]))
        await asyncio.sleep(0.01)


def memory_bytes() -> int:
    """Resident memory of this process, which the gateway shares."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def gaps(session: aiohttp.ClientSession, longest: list[float]) -> None:
    """Keep the longest wait between two events of a stream in ``longest[0]``, seconds."""
    decoder = Decoder(1 << 20)
    path = "/pipelines/chat/queries?sse=true"
    async with session.post(path, json={"request": "x"}) as response:
        last: Stopwatch | None = None
        async for piece in response.content.iter_any():
            if decoder.feed(piece):
                longest[0] = max(longest[0], 0.0 if last is None else last.passed_s())
                last = Stopwatch()
    raise AssertionError("the stream ended")


async def ask(session: aiohttp.ClientSession, expression: str) -> tuple[int, float, str]:
    """Status, seconds and message of one /transform call."""
    answered = Stopwatch(family=True)
    body = {"text": "x", "transform": expression}
    async with session.post("/v1/pipelines/doc/executeSync/transform", json=body) as response:
        text = await response.text()
        return response.status, answered.passed_s(), text


@pytest.mark.parametrize("engine", ["jsonatapy", "jsonata-python"])
async def test_a_bomb_is_refused_in_time_while_other_streams_flow(engine: str) -> None:
    bombs = BOMBS if engine == "jsonatapy" else BOMBS | {"backtracking": BACKTRACKING}
    async with (
        remote(script) as far,
        gateway(CONFIG.format(engine=engine, url=far.url)) as base,
        client(base) as session,
    ):
        assert (await ask(session, "1"))[0] == 200
        before = memory_bytes()
        longest = [0.0]
        watching = asyncio.create_task(gaps(session, longest))
        for name, expression in bombs.items():
            late = []
            for _ in range(TRIES):  # what a bomb does, it does each time; the machine does not
                longest[0] = 0.0
                status, took_s, text = await ask(session, expression)
                assert status == 400, (name, text)
                assert json.loads(text)["code"] == "transform_limit", (name, text)
                late.append(max(took_s - LIMIT_S, longest[0]))
                if late[-1] < 0.1:  # as is promised
                    break
            assert min(late) < 0.1 * ROOM, (name, late)
        assert not watching.done()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert memory_bytes() - before < 64 * 1024 * 1024
        assert (await ask(session, "executionId"))[0] == 200


async def test_a_regular_expression_cannot_backtrack_on_the_default_engine() -> None:
    async with (
        remote(script) as far,
        gateway(CONFIG.format(engine="jsonatapy", url=far.url)) as base,
        client(base) as session,
    ):
        status, _, text = await ask(session, BACKTRACKING)
        assert (status, text) == (200, "false")


async def test_an_expression_that_does_not_parse_says_where(tmp_path: Path) -> None:
    async with (
        remote(script) as far,
        gateway(CONFIG.format(engine="jsonatapy", url=far.url)) as base,
        client(base) as session,
    ):
        status, _, text = await ask(session, "a +\n b ) c")
        answer = json.loads(text)
        assert (status, answer["code"]) == (400, "transform_invalid")
        assert "line 2" in answer["message"]


async def test_more_expressions_than_can_wait_are_told_to_come_back() -> None:
    async with (
        remote(script) as far,
        gateway(CONFIG.format(engine="jsonatapy", url=far.url)) as base,
        client(base) as session,
    ):
        slow = BOMBS["endless tail recursion"]
        answers = await asyncio.gather(*(ask(session, slow) for _ in range(8)))
        assert sorted(status for status, _, _ in answers) == [400] * 4 + [503] * 4


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html, application/*;q=0.5", "application/json"),
        ("text/plain", "text/plain"),
    ],
)
async def test_a_view_may_be_any_json_value_and_comes_as_the_client_accepts_it(
    accept: str | None, content_type: str
) -> None:
    async with (
        remote(script) as far,
        gateway(CONFIG.format(engine="jsonatapy", url=far.url)) as base,
        aiohttp.ClientSession(base, skip_auto_headers=["Accept"]) as session,
    ):
        for expression, value in [("1", 1), ('"a"', "a"), ("nothing", None), ("[]", [])]:
            async with session.post(
                "/v1/pipelines/doc/executeSync/transform",
                json={"text": "x", "transform": expression},
                headers={} if accept is None else {"Accept": accept},
            ) as response:
                assert response.status == 200
                assert response.content_type == content_type
                assert json.loads(await response.text()) == value
