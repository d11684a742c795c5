"""The end of the process: what was begun is finished, and the end comes when it was promised."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import pytest

from gateway.sse import Decoder
from tests.support.client import check_stream, read_events
from tests.support.remote import Peer, Remote, Seen, remote
from tests.support.running import client
from tests.support.scripts import EVENTS, frames
from tests.support.serving import Serving, serving
from tests.support.timing import Stopwatch, patience, promised, until

QUERY = "/pipelines/chat/queries"
#: What the end may take beyond the times that are configured, seconds.
MARGIN_S = 4.0


def written(folder: Path, upstream: Remote, **server: Any) -> Path:
    path = folder / "gateway.yaml"
    keys = json.dumps({"port": 0, **server})
    path.write_text(
        f"server: {keys}\n"
        f"upstreams: {{u: {{kind: pupau, url: '{upstream.url}'}}}}\n"
        "pipelines: {chat: {upstream: u}}\n"
    )
    return path


class Held:
    """A remote Pupau that goes on with a stream when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, seen: Seen, peer: Peer) -> None:
        if "sse=true" not in seen.path:
            await peer.answer(json.dumps(EVENTS[-1]["responses"]).encode())
            return
        await peer.open_stream()
        await peer.chunk(frames(EVENTS[:3]))
        await self.go_on.wait()
        await peer.chunk(frames(EVENTS[3:]))
        await peer.end()


async def first_event(response: aiohttp.ClientResponse) -> bytes:
    """All that has come by the time that the first event has."""
    data = b""
    while b"\n\n" not in data:
        data += await response.content.readany()
    return data


async def gone(pids: set[int]) -> None:
    """Return once none of the processes is there any more."""
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


async def test_it_is_not_ready_at_once_and_still_accepts_for_a_while(tmp_path: Path) -> None:
    async with remote(Held()) as upstream:
        config = written(tmp_path, upstream, pre_stop_s=2.0, drain_s=5)
        async with serving(config) as gateway:
            async with client(gateway.base) as session, session.get("/readyz") as response:
                assert (response.status, (await response.json())["ready"]) == (200, True)
            children = gateway.children()
            gateway.tell(signal.SIGTERM)
            told, since_told = monotonic(), Stopwatch(family=True)
            await gateway.said("stopping")
            async with client(gateway.base) as session:
                async with session.get("/readyz") as response:
                    assert (response.status, (await response.json())["stopping"]) == (503, True)
                async with session.post(QUERY, json={"request": "x"}) as response:
                    assert response.status == 200
                    assert response.headers["Connection"] == "close"
                await gateway.said("draining")
                assert monotonic() - told >= 1.9
                with pytest.raises(aiohttp.ClientConnectorError):
                    await session.get("/readyz")
            assert await gateway.ended() == 0
            assert since_told.passed_s() < 2.0 + MARGIN_S
    assert [line["event"] for line in gateway.log if line["event"] != "request"][-3:] == [
        "stopping",
        "draining",
        "stopped",
    ]
    assert gateway.errors == b""
    assert len(children) == 3
    await gone(children)


async def test_a_stream_that_ends_in_time_ends_whole_and_idle_connections_do_not_wait_for_it(
    tmp_path: Path,
) -> None:
    held = Held()
    async with remote(held) as upstream:
        config = written(tmp_path, upstream, pre_stop_s=30, drain_s=30)
        async with serving(config) as gateway, client(gateway.base) as session:
            port = int(gateway.base.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
            async with session.post(QUERY + "?sse=true", json={"request": "x"}) as response:
                begun = await first_event(response)
                gateway.tell(signal.SIGINT)  # a person does not wait for pre_stop_s
                assert (await gateway.said("draining"))["requests"] == 1
                async with patience():
                    assert await reader.read() == b""
                writer.close()
                held.go_on.set()
                data = begun + await response.content.read()
            assert await gateway.ended() == 0
    events = [json.loads(frame.data) for frame in Decoder(1 << 20).feed(data)]
    assert check_stream(events) == {"c": "Hello wörld"}
    assert events[-1]["last"] is True


async def test_a_stream_that_does_not_end_gets_a_last_error(tmp_path: Path) -> None:
    async with remote(Held()) as upstream:
        config = written(tmp_path, upstream, pre_stop_s=0, drain_s=0.5)
        async with serving(config) as gateway, client(gateway.base) as session:
            async with session.post(QUERY + "?sse=true", json={"request": "x"}) as response:
                gateway.tell(signal.SIGTERM)
                told, since_told = monotonic(), Stopwatch(family=True)
                events = await read_events(response)
            assert monotonic() - told >= 0.4
            async with promised(1):
                await upstream.seen[0].gone.wait()
            assert await gateway.ended() == 0
            assert since_told.passed_s() < 0.5 + MARGIN_S
    last = events[-1]
    assert (last["type"], last["last"]) == ("LAYER_RESPONSE", True)
    assert [error["name"] for each in last["responses"] for error in each["errors"]][-1:] == [
        "ShuttingDown"
    ]
    assert (await gateway.said("request"))["outcome"] == "shut_down"


async def stubborn(gateway: Serving) -> list[asyncio.StreamWriter]:
    """Clients that are in nobody's way but the end's: half a head, half a body, a stream that
    nobody reads, one that waits."""
    port = int(gateway.base.rpartition(":")[2])
    head = "POST /pipelines/chat/queries?sse=true HTTP/1.1\r\nHost: x\r\n"
    body = b'{"request": "x"}'
    whole = head.encode() + b"Content-Type: application/json\r\nContent-Length: 16\r\n\r\n" + body
    writers = []
    for sent in (head.encode(), whole[:-5], whole, whole + whole):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(sent)
        writers.append(writer)
    return writers


async def flood(seen: Seen, peer: Peer) -> None:
    """A remote that never stops talking."""
    await peer.open_stream()
    piece = frames([{**EVENTS[1], "message": "x" * 10_000}])
    while not seen.gone.is_set():
        await peer.chunk(piece)


async def test_nobody_can_hold_up_the_end(tmp_path: Path) -> None:
    async with remote(flood) as upstream:
        config = written(tmp_path, upstream, pre_stop_s=0, drain_s=0.3)
        async with serving(config) as gateway:
            writers = await stubborn(gateway)
            await until(lambda: len(upstream.seen) == 2)
            children = gateway.children()
            gateway.tell(signal.SIGTERM)
            async with promised(0.3 + MARGIN_S):
                assert await gateway.ended() == 0
            for writer in writers:
                writer.transport.abort()
        await gone(children)
    assert gateway.errors == b""


@pytest.mark.parametrize(
    ("server", "stage", "code"),
    [
        ({"pre_stop_s": 60}, "stopping", 128 + signal.SIGTERM),
        ({"pre_stop_s": 0, "drain_s": 60}, "draining", 128 + signal.SIGINT),
    ],
)
async def test_a_second_signal_ends_it_at_once(
    server: dict[str, Any], stage: str, code: int, tmp_path: Path
) -> None:
    async with remote(flood) as upstream:
        async with serving(written(tmp_path, upstream, **server)) as gateway:
            writers = await stubborn(gateway)
            await until(lambda: len(upstream.seen) == 2)
            children = gateway.children()
            gateway.tell(signal.SIGTERM)
            await gateway.said(stage)
            gateway.tell(signal.Signals(code - 128))
            async with promised(2.0):
                assert await gateway.ended() == code
            for writer in writers:
                writer.transport.abort()
        assert len(children) == 3
        await gone(children)
        await until(lambda: not upstream.open_connections)
