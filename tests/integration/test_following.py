"""Following an execution through whatever breaks: every event once, in its order."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

from gateway.calling import Place, Question
from gateway.executions.records import BEGINNING, EventId, Status, event_id
from gateway.following import Back, Broken, Ended, Missed, News, Told, follow
from gateway.managing import queue
from gateway.sse import encode
from tests.support.faultproxy import Act, Fault, fault_proxy
from tests.support.remote import Peer, Seen, remote
from tests.support.running import gateway
from tests.support.scripts import EVENTS
from tests.support.timing import patience

LOG = [
    (EventId(turn, number), json.dumps({"type": "NEW", "of": f"{turn}-{number} ä\n"}).encode())
    for turn, count in ((1, 3), (2, 4), (4, 2))
    for number in range(1, count + 1)
]


async def followed(url: str, execution_id: str = "e", **options: Any) -> list[News]:
    """All that is told of an execution."""
    following = follow(Place(url), execution_id, give_up_s=60, **options)
    async with patience(), aclosing(following) as news:
        return [each async for each in news]


def frames_behind(seen: Seen) -> bytes:
    last = seen.headers.get("last-event-id")
    after = BEGINNING if last is None else event_id(last)
    found = [encode(data, event_id=str(at)) for at, data in LOG if at > after]
    return b"".join(found) or b": nothing more\n\n"


async def how_it_is(peer: Peer) -> None:
    await peer.answer(b'{"executionId": "e", "status": "COMPLETED"}')


async def test_wherever_a_stream_is_cut_every_event_is_told_once_and_in_order() -> None:
    async def cut_after(count: int) -> list[News]:
        connections = 0

        async def script(seen: Seen, peer: Peer) -> None:
            nonlocal connections
            if not seen.path.endswith("/events"):
                await how_it_is(peer)
                return
            connections += 1
            await peer.open_stream()
            sent = frames_behind(seen)
            if connections == 1:
                await peer.chunk(sent[:count])
                peer.writer.close()  # not a reset, which may overtake what was sent
            else:
                await peer.chunk(sent)
                await peer.end()

        async with remote(script) as upstream:
            return await followed(upstream.url)

    size = sum(len(encode(data, event_id=str(at))) for at, data in LOG)
    results = await asyncio.gather(*(cut_after(count) for count in range(1, size, 5)))
    for news in results:
        told = [(each.id, each.data) for each in news if isinstance(each, Told)]
        assert told == LOG
        assert sum(isinstance(each, Broken) for each in news) == 1
        assert sum(isinstance(each, Back) for each in news) == 1
        assert isinstance(news[-1], Ended)


async def test_a_gateway_that_gives_no_sign_of_life_is_asked_again() -> None:
    connections = 0

    async def script(seen: Seen, peer: Peer) -> None:
        nonlocal connections
        if not seen.path.endswith("/events"):
            await how_it_is(peer)
            return
        connections += 1
        await peer.open_stream()
        sent = frames_behind(seen)
        if connections == 1:
            await peer.chunk(sent[:100])
            await seen.gone.wait()
        else:
            await peer.chunk(sent)
            await peer.end()

    async with remote(script) as upstream:
        news = await followed(upstream.url, silent_s=0.5)
    assert [each.data for each in news if isinstance(each, Told)] == [data for _, data in LOG]
    (broken,) = [each for each in news if isinstance(each, Broken)]
    assert broken.why == "nothing came for too long, not even a sign of life"


async def test_signs_of_life_keep_a_silent_execution_followed() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        if not seen.path.endswith("/events"):
            await how_it_is(peer)
            return
        await peer.open_stream()
        for _ in range(12):
            await peer.chunk(b": still there\n\n")
            await asyncio.sleep(0.1)
        await peer.chunk(frames_behind(seen))
        await peer.end()

    async with remote(script) as upstream:
        news = await followed(upstream.url, silent_s=1.0)
    assert [each.id for each in news if isinstance(each, Told)] == [at for at, _ in LOG]
    assert not any(isinstance(each, Broken) for each in news)


CONFIG = """
upstreams: {{u: {{kind: pupau, url: "{url}"}}}}
pipelines: {{chat: {{upstream: u}}}}
executions: {{store: "sqlite:kept.db"}}
"""


async def test_a_live_execution_is_told_whole_over_a_line_that_breaks_again_and_again() -> None:
    async def talkative(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        for number in range(400):
            piece = {**EVENTS[1], "message": f"{number} "}
            await peer.chunk(b"data: %b\n\n" % json.dumps(piece).encode())
            await asyncio.sleep(0.002)
        await peer.chunk(b"data: %b\n\n" % json.dumps(EVENTS[-1]).encode())
        await peer.end()

    async with (
        remote(talkative) as upstream,
        gateway(CONFIG.format(url=upstream.url)) as base,
        fault_proxy(int(base.rpartition(":")[2]), Fault(Act.RESET, after=4000)) as line,
    ):
        question = Question(Place(base), "chat", text="x")
        execution_id = await queue(question)
        news = await followed(line.url, execution_id)
        whole = await followed(base, execution_id)
    told = [each for each in news if isinstance(each, Told)]
    assert told == [each for each in whole if isinstance(each, Told)]
    assert len(told) > 400
    assert [each.id.number for each in told] == list(range(1, len(told) + 1))
    assert sum(isinstance(each, Broken) for each in news) > 5
    assert not any(isinstance(each, Missed) for each in news)
    assert news[-1] == whole[-1] == Ended(Status.COMPLETED, None, told=True)
