"""Following an execution through whatever breaks: every event once, in its order."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

from gateway.calling import Place
from gateway.executions.records import BEGINNING, EventId, event_id
from gateway.following import Back, Broken, Ended, News, Told, follow
from gateway.sse import encode
from tests.support.remote import Peer, Seen, remote
from tests.support.timing import patience

LOG = [
    (EventId(turn, number), json.dumps({"type": "NEW", "of": f"{turn}-{number} ä\n"}).encode())
    for turn, count in ((1, 3), (2, 4), (4, 2))
    for number in range(1, count + 1)
]


async def followed(url: str, **options: Any) -> list[News]:
    """All that is told of the execution ``e``."""
    async with patience(), aclosing(follow(Place(url), "e", give_up_s=60, **options)) as news:
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
