"""The bodies that the benchmark's upstream answers with, and what calls ask for.

Owns: observations of any size, responses, events, as bytes of our own making.
Does not know: sockets.
"""

from __future__ import annotations

import json
from functools import cache

#: Entities of an observation: about 400 bytes, 25 KB and 250 KB as JSON.
SMALL, MEDIUM, LARGE = 1, 100, 1000

#: Stands before the time in each paced event; nothing else in a stream has it.
STAMP = b"~"
STAMP_DIGITS = 16

LABELS = ("item", "price", "tax", "quantity", "date", "note")


def _entity(number: int) -> dict[str, object]:
    box = {"left": 0.1, "top": round(number * 37 % 97 / 100, 2), "width": 0.3, "height": 0.01}
    return {
        "id": f"entity-{number}",
        "block": {"text": f"value {number}", "geometry": {"boundingBox": box}},
        "confidence": round(0.5 + number * 7 % 50 / 100, 2),
        "label": LABELS[number % len(LABELS)],
        "type": "NUMBER",
        "data": {"numberValue": number * 3 % 101, "unitValue": "EUR"},
        "layoutType": "LINE",
    }


@cache
def observation(entities: int) -> bytes:
    """An observation of one page with so many entities, as compact JSON; 240 bytes an entity. They
    come in the order in which they were found, which is not the order of reading."""
    page = {"page": 1, "document": {"id": "p", "entities": [*map(_entity, range(entities))]}}
    content = {"id": "m", "mediaId": "m", "documentPages": [page]}
    return compact({"executionId": "x", "mediaContents": [content], "documents": []})


def total(label: str, entities: int) -> int:
    """The sum of the values that an observation of so many entities has under ``label``."""
    return sum(
        number * 3 % 101 for number in range(entities) if LABELS[number % len(LABELS)] == label
    )


@cache
def execution(entities: int) -> bytes:
    """What a Cambrion remote answers to executeSync."""
    return b'{"executionId":"x","observation":' + observation(entities) + b"}"


@cache
def responses(entities: int) -> bytes:
    """What a Pupau remote answers to a query that is not streamed, about as long as
    ``execution`` of so many entities."""
    message = "word " * (50 * entities)
    return compact([{"actorId": "a", "message": message, "info": [], "errors": []}])


@cache
def piece(text: str) -> bytes:
    """One event of a Pupau stream, a frame."""
    event = {"type": "STREAMING_RESPONSE", "actorId": "a", "message": text, "layerId": "0"}
    return b"data: " + compact(event) + b"\n\n"


def last_event(text: str) -> bytes:
    """The event that ends a Pupau stream, a frame."""
    said = {"actorId": "a", "message": text, "errors": [], "info": []}
    event = {"type": "LAYER_RESPONSE", "layerId": "0", "responses": [said], "last": True}
    return b"data: " + compact(event) + b"\n\n"


def completion() -> bytes:
    """What an OpenAI-like remote answers to a chat completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "word " * 50},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 50, "total_tokens": 51}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    return compact({**body, "choices": [choice], "usage": usage})


def compact(value: object) -> bytes:
    """``value`` as JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()
