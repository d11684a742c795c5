"""However an upstream's stream is cut into reads, a client of the gateway gets the same bytes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import aiohttp
import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.sse import Decoder, Frame
from tests.support.remote import Peer, Remote, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import EVENTS, frames

CONFIG = """
upstreams:
  far: {{kind: pupau, url: "{url}"}}
  near: {{kind: pupau, url: "{url}"}}
pipelines:
  plain: {{upstream: far}}
  touched: {{upstream: far, transform: {{event: "$"}}}}
  fallback: {{upstreams: [far, near]}}
  layer: {{layers: [[{{actor: a, upstream: far}}]]}}
"""
SSE = {"Accept": "text/event-stream"}
#: How a client asks for the stream: path, body, headers.
FORMS: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "untouched": ("/pipelines/plain/queries?sse=true", {"request": "x"}, {}),
    "transformed": ("/pipelines/touched/queries?sse=true", {"request": "x"}, {}),
    "one of two": ("/pipelines/fallback/queries?sse=true", {"request": "x"}, {}),
    "in a layer": ("/pipelines/layer/queries?sse=true", {"request": "x"}, {}),
    "other dialect": ("/v1/pipelines/plain/executeSync", {"text": "x"}, SSE),
}
#: What the upstream says: every kind of line and of line end, and characters of several bytes.
STREAM = (
    b"\xef\xbb\xbf: welcome\r\n\r\nid: 7\r\n"
    + frames(EVENTS[:1])[:-2]
    + b"\r\n\r\nretry: 5\n: \xf0\x9f\x98\x80\nevent: odd\rdata: "
    + frames(EVENTS[1:2])[6:].replace(b"\n", b"\r")
    + frames(EVENTS[2:5])
    + b'data: {\r\ndata: "type": "USAGE"}\r\n\n'
    + frames(EVENTS[5:]).replace(b'"actorId"', b'\ndata:"actorId"')
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def chunked(sizes: Sequence[int]) -> bytes:
    """The stream as an answer in chunks of these sizes, again and again."""
    answer, at, turn = HEAD + b"Transfer-Encoding: chunked\r\n\r\n", 0, 0
    while at < len(STREAM):
        chunk = STREAM[at : at + sizes[turn % len(sizes)]]
        answer += b"%x\r\n%b\r\n" % (len(chunk), chunk)
        at, turn = at + len(chunk), turn + 1
    return answer + b"0\r\n\r\n"


ANSWERS = st.one_of(
    st.lists(st.integers(1, 400), min_size=1, max_size=4).map(chunked),
    st.just(HEAD + b"Content-Length: %d\r\n\r\n" % len(STREAM) + STREAM),
    st.just(HEAD + b"Connection: close\r\n\r\n" + STREAM),
)


class Cutting:
    """An upstream that writes ``pieces``, each of which is read by itself."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def cut(self, answer: bytes, places: Sequence[int]) -> None:
        """Write ``answer`` from now on, cut at these places."""
        ends = sorted({place % len(answer) for place in places} | {len(answer)})
        self.pieces = [answer[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    async def script(self, seen: Seen, peer: Peer) -> None:
        for piece in self.pieces:
            await peer.send(piece)
            for _ in range(3):  # the gateway's turn, which is in the same loop
                await asyncio.sleep(0)
        if b"Connection: close" in b"".join(self.pieces):
            peer.writer.close()


def decoded(stream: bytes) -> list[Frame]:
    """What a reader of event streams makes of it."""
    return Decoder(1 << 20).feed(stream)


def fields(stream: bytes) -> list[bytes]:
    """Its lines, but for comments: those that no event follows in the same read go no further."""
    lines = stream.removeprefix(b"\xef\xbb\xbf").splitlines()
    return [line for line in lines if line and not line.startswith(b":")]


class Running:
    """A gateway before such an upstream, in a loop that stands still between two questions."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.upstream = Cutting()
        self._runner = runner
        self._stack = AsyncExitStack()

    def __enter__(self) -> Running:
        self._session = self._runner.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._stack.aclose())

    async def _start(self) -> aiohttp.ClientSession:
        far: Remote = await self._stack.enter_async_context(remote(self.upstream.script))
        base = await self._stack.enter_async_context(gateway(CONFIG.format(url=far.url)))
        return await self._stack.enter_async_context(client(base))

    def received(self) -> dict[str, bytes]:
        """What a client gets in each of the forms, which ask side by side."""
        return self._runner.run(self._ask())

    async def _ask(self) -> dict[str, bytes]:
        answers = await asyncio.gather(*(self._stream(*form) for form in FORMS.values()))
        return dict(zip(FORMS, answers, strict=True))

    async def _stream(self, path: str, body: dict[str, str], headers: dict[str, str]) -> bytes:
        async with self._session.post(path, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            # The one thing that is another each time.
            return re.sub(rb'"executionId":"[^"]*"', b"", await response.read())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_a_client_gets_does_not_depend_on_how_the_upstreams_bytes_arrive(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=loop) as runner, Running(runner) as running:
        whole = chunked([len(STREAM)])
        running.upstream.cut(whole, [])
        expected = running.received()
        assert expected["untouched"] == STREAM
        assert [form for form, data in expected.items() if b'"Hello "' not in data] == []

        @settings(max_examples=25)
        @given(answer=ANSWERS, places=st.lists(st.integers(0, 5000), max_size=12))
        @example(answer=whole, places=range(len(whole)))
        def check(answer: bytes, places: Sequence[int]) -> None:
            running.upstream.cut(answer, places)
            received = running.received()
            untouched = received.pop("untouched")
            assert decoded(untouched) == decoded(STREAM)
            assert fields(untouched) == fields(STREAM)
            assert received == {form: expected[form] for form in received}

        check()


def test_what_comes_with_the_end_of_a_run_is_passed_on_in_one_read_or_two() -> None:
    # uvloop reads twice in a turn where the first fills all there is room for.
    padding = b":" + b"x" * 60_000 + b"\n\n"
    after = b"data: " + b'{"type":"USAGE"}' + b" " * 20_000 + b"\n\n"
    text = frames(EVENTS[:1]) + padding + frames(EVENTS[1:]) + after
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        Running(runner) as running,
    ):
        whole = HEAD + b"Content-Length: %d\r\n\r\n" % len(text) + text
        running.upstream.cut(whole, [len(whole) - len(text) + 40])
        assert running.received()["untouched"] == text
