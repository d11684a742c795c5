"""When Triton is asked about a model again, and what that costs whom: scripted on real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.errors import Code
from gateway.upstreams.triton import TritonUpstream
from tests.support.remote import Peer, Seen, remote
from tests.support.triton_calls import Clock, call, fails, message, run, upstream_at


class Script:
    """A Triton whose model ``m`` takes one BYTES input, called ``takes``, and says what it got.

    Loading it anew is another name in ``takes``. ``asked`` counts what is not an inference; while
    ``describes`` is not set, a description is begun and does not come; ``gone`` answers 404.
    """

    def __init__(self) -> None:
        self.takes = "IN"
        self.asked = 0
        self.gone = False
        self.describes = asyncio.Event()
        self.describes.set()
        self.waiting = asyncio.Event()

    async def __call__(self, seen: Seen, peer: Peer) -> None:
        """Answer one request."""
        if seen.path.endswith("/infer"):
            await self._infer(seen, peer)
            return
        self.asked += 1
        if self.gone:
            await peer.answer(b'{"error":"no description"}', "404 Not Found")
            return
        self.waiting.set()
        await self.describes.wait()
        if seen.path.endswith("/config"):
            await peer.answer(b"{}")
            return
        tensors = {
            "inputs": [{"name": self.takes, "datatype": "BYTES", "shape": [1]}],
            "outputs": [{"name": "OUT", "datatype": "BYTES", "shape": [1]}],
        }
        await peer.answer(json.dumps({"name": "m", "versions": ["1"], **tensors}).encode())

    async def _infer(self, seen: Seen, peer: Peer) -> None:
        length = int(seen.headers["inference-header-content-length"])
        (tensor,) = json.loads(seen.body[:length])["inputs"]
        data = seen.body[length:]
        if tensor["name"] != self.takes or data[4:] == b"nonsense":
            await peer.answer(b'{"error":"not what the model takes"}', "400 Bad Request")
            return
        output = {"name": "OUT", "datatype": "BYTES", "shape": [1],
                  "parameters": {"binary_data_size": len(data)}}  # fmt: skip
        head = json.dumps({"outputs": [output]}).encode()
        await peer.answer(head + data, headers=(f"Inference-Header-Content-Length: {len(head)}",))


@asynccontextmanager
async def known() -> AsyncIterator[tuple[TritonUpstream, Script, Clock]]:
    """An upstream that has asked about the model (two questions), long enough ago to ask again."""
    script, clock = Script(), Clock()
    async with remote(script) as server, upstream_at(server.url, clock=clock) as upstream:
        assert await run(upstream, call("m", text="hi")) == [message("hi")]
        clock.now += 5
        yield upstream, script, clock


NONSENSE = call("m", text="nonsense")
NOTHING = call("m", inputs={"IN": "text"})


async def test_bad_requests_make_no_work_for_triton() -> None:
    async with known() as (upstream, script, clock):
        for made, code in ((NONSENSE, Code.UPSTREAM_REJECTED), (NOTHING, Code.BAD_REQUEST)):
            for _ in range(50):
                assert (await fails(upstream, made)).code is code
        assert script.asked == 2 + 2
        clock.now += 4.9
        await fails(upstream, NONSENSE)
        assert script.asked == 4
        clock.now += 0.1
        await asyncio.gather(*(fails(upstream, NONSENSE) for _ in range(20)))
        assert script.asked == 6


async def test_a_model_described_a_moment_ago_is_not_asked_about_again() -> None:
    async with known() as (upstream, script, clock):
        clock.now -= 0.1
        await fails(upstream, NONSENSE)
        assert script.asked == 2


async def test_good_requests_do_not_wait_while_a_bad_one_has_triton_asked() -> None:
    async with known() as (upstream, script, _):
        script.describes.clear()
        script.waiting.clear()
        bad = asyncio.create_task(fails(upstream, NONSENSE))
        await script.waiting.wait()
        assert await run(upstream, call("m", text="hi")) == [message("hi")]
        assert not bad.done()
        script.describes.set()
        assert (await bad).code is Code.UPSTREAM_REJECTED


async def test_all_who_meet_a_model_that_was_loaded_anew_share_one_new_description() -> None:
    async with known() as (upstream, script, _):
        script.takes = "NEW"
        answers = await asyncio.gather(*(run(upstream, call("m", text="hi")) for _ in range(20)))
        assert answers == [[message("hi")]] * 20
        assert script.asked == 4


async def test_a_bad_request_is_told_so_though_the_model_cannot_be_described_now() -> None:
    async with known() as (upstream, script, clock):
        script.gone = True
        for _ in range(3):
            assert (await fails(upstream, NONSENSE)).code is Code.UPSTREAM_REJECTED
            assert (await fails(upstream, NOTHING)).code is Code.BAD_REQUEST
        assert script.asked == 2 + 1
        assert await run(upstream, call("m", text="hi")) == [message("hi")]
        script.gone = False
        script.takes = "NEW"
        clock.now += 5
        assert await run(upstream, call("m", text="hi")) == [message("hi")]


async def test_whoever_gives_up_while_asking_leaves_it_to_the_next() -> None:
    async with known() as (upstream, script, _):
        script.takes = "NEW"
        script.describes.clear()
        script.waiting.clear()
        first = asyncio.create_task(run(upstream, call("m", text="hi")))
        await script.waiting.wait()
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        script.describes.set()
        assert await run(upstream, call("m", text="hi")) == [message("hi")]
