"""Reading a gateway's answers as a client would."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from gateway.sse import Decoder

#: A PNG of one pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)


async def read_events(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    """Every event of a stream, as JSON. The stream must end between two events."""
    decoder = Decoder(1 << 26)
    events = []
    async for piece in response.content.iter_any():
        events += [json.loads(frame.data) for frame in decoder.feed(piece)]
    assert not decoder.pending
    return events


def check_stream(events: list[dict[str, Any]]) -> dict[str, str]:
    """The rules that every whole stream keeps; returns the last layer's messages by actor."""
    pieces: dict[tuple[str, str], str] = {}
    finished = []
    messages: dict[str, str] = {}
    for position, event in enumerate(events):
        if event["type"] == "STREAMING_RESPONSE":
            key = (event["layerId"], event["actorId"])
            assert key not in finished, "a piece after the actor's last"
            pieces[key] = pieces.get(key, "") + event["message"]
            if event.get("finished"):
                finished.append(key)
        if event["type"] == "LAYER_RESPONSE":
            messages = {r["actorId"]: r["message"] for r in event["responses"]}
            for actor, message in messages.items():
                assert pieces.get((event["layerId"], actor), "") == message
            assert event.get("last", False) == (position == _last_response(events))
    assert events[0]["type"] == "LAYER_MESSAGE"
    return messages


def _last_response(events: list[dict[str, Any]]) -> int:
    return max(i for i, event in enumerate(events) if event["type"] == "LAYER_RESPONSE")
