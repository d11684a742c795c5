"""A log line that is no longer than several processes can write to one pipe at a time.

A pipe takes 4,096 bytes in one piece; of what is longer, another process's line may come in the
midst. So a longer line becomes several, each a whole JSON object.

Owns: how a line is divided.
Does not know: what it says, or where it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

#: What every part repeats, so that each can be read on its own.
_HEAD: Final = ("time", "level", "event", "worker", "request_id")
#: The least that a part is given to hold, bytes, however long its head is.
_ROOM_MIN: Final = 64

_encode = msgspec.json.Encoder(enc_hook=str).encode


def divided(line: dict[str, Any], bytes_max: int) -> list[bytes]:
    """``line`` as JSON on one line, or where that would have more than ``bytes_max`` bytes on
    several: its longest values are left out of the first and follow in pieces, text after text and
    item after item, ``part`` counting from 1. The line breaks are not among the bytes."""
    whole = _encode(line)
    if len(whole) <= bytes_max:
        return [whole]
    first = dict(line)
    head = {key: first[key] for key in _HEAD if key in first}
    moved = []
    while len(_encode(first | {"part": 1})) > bytes_max and len(first) > len(head):
        key = max(first.keys() - head.keys(), key=lambda key: len(_encode(first[key])))
        moved.append((key, first.pop(key)))
    parts = [first]
    for key, value in moved:
        room = max(_ROOM_MIN, bytes_max - len(_encode(head | {key: "", "part": 999_999})))
        parts += [head | {key: piece} for piece in _pieces(value, room)]
    return [_encode(part | {"part": number}) for number, part in enumerate(parts, 1)]


def _pieces(value: Any, room: int) -> Iterator[Any]:
    """``value`` in pieces of at most ``room`` bytes as JSON: texts, or lists of what was in it."""
    match value:
        case str():
            yield from _texts(value, room)
        case list() | tuple():
            yield from _lists(value, room)
        case _:
            yield from _texts(_encode(value).decode(), room)


def _texts(text: str, room: int) -> Iterator[str]:
    start = 0
    while start < len(text):
        length = room
        # An escaped character takes up to six bytes: try shorter ones until it fits.
        while len(_encode(text[start : start + length])) - 2 > room:
            length -= length // 4
        yield text[start : start + length]
        start += length


def _lists(items: Any, room: int) -> Iterator[list[Any]]:
    held: list[Any] = []
    size = 0
    for item in items:
        length = len(_encode(item)) + 1
        if size + length > room and held:
            yield held
            held, size = [], 0
        if length > room:
            text = item if isinstance(item, str) else _encode(item).decode()
            yield from ([piece] for piece in _texts(text, room - 4))
        else:
            held.append(item)
            size += length
    if held:
        yield held
