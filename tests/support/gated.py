"""Upstreams whose answers wait until a test lets them go.

Owns: what they answer, and when.
Does not know: what any test shows.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.support.remote import Peer, Seen
from tests.support.scripts import EVENTS, frames

#: An observation's only page, whatever it was read from: so that a second run can replace it.
PAGE = "page"


def page(text: str, number: int) -> dict[str, Any]:
    """What the ``number``-th call of a ``Reader`` finds in ``text``."""
    return {"id": f"call-{number}", "mediaId": PAGE, "rawText": text}


class Reader:
    """A script: a remote Cambrion that finds one page in each call, while ``gate`` is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        #: The calls so far, and how many of them were given up.
        self.calls: list[dict[str, Any]] = []
        self.left = 0

    async def __call__(self, seen: Seen, peer: Peer) -> None:
        """Answer one call."""
        asked = json.loads(seen.body)
        self.calls.append(asked)
        number = len(self.calls)
        waiting = [asyncio.create_task(each.wait()) for each in (self.gate, seen.gone)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        if seen.gone.is_set():
            self.left += 1
            return
        if asked.get("text") == "fail":
            await peer.answer(b'{"code":"x","message":"no"}', status="500 Internal Server Error")
            return
        text = asked.get("text") or f"{len(asked.get('media', []))} files"
        observation = {"mediaContents": [page(text, number)], "documents": []}
        answer = {"executionId": "remote-1", "observation": observation}
        await peer.answer(json.dumps(answer).encode())


class Talker:
    """A script: a remote Pupau that tells ``EVENTS``. Of a stream of them it holds back all but
    ``first`` until ``gate`` is open."""

    def __init__(self, first: int = 2) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.first = first
        self.calls = 0

    async def __call__(self, seen: Seen, peer: Peer) -> None:
        """Answer one call."""
        self.calls += 1
        if "sse=true" not in seen.path:
            await peer.answer(json.dumps(EVENTS[-1]["responses"]).encode())
            return
        await peer.open_stream()
        await peer.chunk(frames(EVENTS[: self.first]))
        await self.gate.wait()
        for event in EVENTS[self.first :]:
            await peer.chunk(frames([event]))
        await peer.end()
