"""Scripts for a scripted upstream that keeps to its dialect, and what they answer."""

from __future__ import annotations

import json
from typing import Any

from tests.support.remote import Peer, Script, Seen

OBSERVATION: dict[str, Any] = {
    "executionId": "remote-1",
    "mediaContents": [
        {
            "id": "media-1",
            "mediaId": "media-1",
            "rawText": "Total 12.50",
            "documentPages": [
                {
                    "page": 1,
                    "document": {
                        "id": "page-1",
                        "entities": [
                            {
                                "id": "e-1",
                                "block": {"text": "12.50"},
                                "label": "total",
                                "type": "NUMBER",
                                "data": {"numberValue": 12.5},
                            }
                        ],
                    },
                }
            ],
        }
    ],
    "documents": [],
}

#: Two actors side by side whose pieces interleave, then one that has the last word.
EVENTS: list[dict[str, Any]] = [
    {
        "type": "LAYER_MESSAGE",
        "message": "Executing layer 0...",
        "layerId": "0",
        "executionCount": 1,
    },
    {"type": "STREAMING_RESPONSE", "actorId": "a", "message": "on", "layerId": "0"},
    {"type": "STREAMING_RESPONSE", "actorId": "b", "message": "two", "layerId": "0"},
    {
        "type": "STREAMING_RESPONSE",
        "actorId": "a",
        "message": "e",
        "layerId": "0",
        "finished": True,
    },
    {
        "type": "LAYER_RESPONSE",
        "layerId": "0",
        "responses": [
            {"actorId": "a", "message": "one", "errors": [], "info": []},
            {"actorId": "b", "message": "two", "errors": [], "info": []},
        ],
    },
    {
        "type": "LAYER_MESSAGE",
        "message": "Executing layer 1...",
        "layerId": "1",
        "executionCount": 1,
    },
    {
        "type": "STREAMING_RESPONSE",
        "actorId": "c",
        "message": "Hello ",
        "layerId": "1",
        "lastLayer": True,
    },
    {
        "type": "STREAMING_RESPONSE",
        "actorId": "c",
        "message": "wörld",
        "layerId": "1",
        "finished": True,
        "lastLayer": True,
    },
    {
        "type": "LAYER_RESPONSE",
        "layerId": "1",
        "responses": [{"actorId": "c", "message": "Hello wörld", "errors": [], "info": []}],
        "last": True,
    },
]


def frames(events: list[dict[str, Any]]) -> bytes:
    """Events as the remote writes them; its JSON is spaced unlike the gateway's own."""
    return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events)


async def cambrion_script(seen: Seen, peer: Peer) -> None:
    """A remote Cambrion that answers every executeSync with ``OBSERVATION``."""
    if seen.path.endswith("/executeSync"):
        answer: Any = {"executionId": "remote-1", "observation": OBSERVATION}
    elif seen.path.endswith("/definition"):
        answer = {"nodes": [{"modelId": "m"}], "edges": []}
    else:
        answer = []
    await peer.answer(json.dumps(answer).encode())


async def pupau_script(seen: Seen, peer: Peer) -> None:
    """A remote Pupau that answers every query with ``EVENTS``, or their last responses."""
    if "sse=true" in seen.path:
        await peer.open_stream()
        for event in EVENTS:
            await peer.chunk(frames([event]))
        await peer.end()
    elif "sse=false" in seen.path:
        await peer.answer(json.dumps(EVENTS[-1]["responses"]).encode())
    else:
        await peer.answer(b"{}", status="404 Not Found")


def answering(
    body: bytes,
    status: str = "200 OK",
    content_type: str = "application/json",
    headers: tuple[str, ...] = (),
) -> Script:
    """A remote that gives one whole answer to everything."""

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.answer(body, status, content_type, headers)

    return script
