"""Observations as JSON bytes: putting two together, and telling one when it is met.

No value is built that nobody asks for: entries pass through as the bytes they arrived as.

Owns: which fields of an observation are lists that grow, and what replaces what in them.
Does not know: what is in a media content, who produced it, where it is kept; how an observation
becomes something else is written in ``transforms/*.jsonata``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.errors import RequestRejected

_Fields = dict[str, msgspec.Raw]
LISTS: Final = ("mediaContents", "documents")
_NULL: Final = msgspec.Raw(b"null")

_FIELDS: Final = msgspec.json.Decoder(_Fields)
_ENTRIES: Final = msgspec.json.Decoder(list[msgspec.Raw])


class _Entry(msgspec.Struct, rename="camel"):
    media_id: str | None = None


_ENTRY: Final = msgspec.json.Decoder(_Entry)


def append(first: bytes, second: bytes, *, replace: bool = False) -> bytes:
    """``first`` with what a later run found added.

    ``mediaContents`` and ``documents`` are those of both, in order. With ``replace``, entries of
    ``second`` take the places of those in ``first`` with the same ``mediaId``, and an entry without
    one replaces its equal, to the letter; what has no place is added. So the same run again changes
    nothing. Of every other field the first one there is stays, ``executionId`` included. A field
    that is ``null`` is absent.

    Raises:
        RequestRejected: one of the two is no observation; the message names the field.
    """
    result = _fields(first)
    added = _fields(second)
    for name, value in added.items():
        present = result.get(name, _NULL)
        if _is_null(present):
            result[name] = value
        elif name in LISTS and not _is_null(value):
            result[name] = _replaced(name, present, value) if replace else _joined(present, value)
    return msgspec.json.encode(result)


def with_execution_id(observation: bytes, execution_id: str) -> bytes:
    """``observation`` with ``execution_id`` as its ``executionId``, otherwise unchanged.

    Raises:
        RequestRejected: as for ``append``.
    """
    fields = _fields(observation)
    wanted = msgspec.json.encode(execution_id)
    present = fields.pop("executionId", None)
    if present is None:
        rest = observation.lstrip()[1:]
        return b'{"executionId":' + wanted + (b"," if fields else b"") + rest
    if bytes(present) == wanted:
        return observation
    return msgspec.json.encode({"executionId": msgspec.Raw(wanted), **fields})


def looks_like_observation(text: bytes) -> bool:
    """Whether ``text`` is a JSON object with a list under ``mediaContents`` or ``documents``."""
    if text.lstrip()[:1] != b"{":  # most texts are prose, and this is all they cost
        return False
    try:
        fields = _fields(text)
    except RequestRejected:
        return False
    return any(name in fields and not _is_null(fields[name]) for name in LISTS)


def media_id_of(name: str, index: int, entry: msgspec.Raw) -> str | None:
    """The ``mediaId`` of an entry of the list ``name``; ``None`` where it has none.

    Raises:
        RequestRejected: it is no such entry; the message says which it is.
    """
    try:
        return _ENTRY.decode(entry).media_id
    except msgspec.ValidationError as error:
        raise RequestRejected(f"the observation's {name}[{index}]: {error}") from error


def _fields(observation: bytes) -> _Fields:
    """The observation's fields, unparsed; its lists are lists or null."""
    try:
        observation.decode()  # what is left raw has not been checked for being UTF-8
        fields = _FIELDS.decode(observation)
    except msgspec.ValidationError as error:
        raise RequestRejected("the observation is not a JSON object") from error
    except RecursionError as error:
        raise RequestRejected("the observation is nested too deeply") from error
    except ValueError as error:  # malformed, or not UTF-8
        raise RequestRejected(f"the observation is not valid JSON: {error}") from error
    for name in LISTS:
        value = fields.get(name, _NULL)
        if not _is_null(value) and not bytes(value).startswith(b"["):
            raise RequestRejected(f"the observation's {name} is not a list")
    return fields


def _is_null(value: msgspec.Raw) -> bool:
    return bytes(value) == b"null"


def _joined(first: msgspec.Raw, second: msgspec.Raw) -> msgspec.Raw:
    """Two lists as one, without looking at what is in them."""
    contents = [bytes(value)[1:-1].strip() for value in (first, second)]
    return msgspec.Raw(b"[" + b",".join(filter(None, contents)) + b"]")


def _replaced(name: str, first: msgspec.Raw, second: msgspec.Raw) -> msgspec.Raw:
    """``first`` with entries of ``second`` in place of those of the same identity."""
    newer = _identified(name, second)
    places: dict[str | bytes, list[int]] = {}
    for index in reversed(range(len(newer))):
        places.setdefault(newer[index][0], []).append(index)
    result: list[msgspec.Raw] = []
    placed: set[int] = set()
    for identity, entry in _identified(name, first):
        if identity not in places:
            result.append(entry)
        elif places[identity]:  # an old one without a new one of its own is replaced by nothing
            index = places[identity].pop()
            placed.add(index)
            result.append(newer[index][1])
    result += [entry for index, (_, entry) in enumerate(newer) if index not in placed]
    return msgspec.Raw(msgspec.json.encode(result))


def _identified(name: str, value: msgspec.Raw) -> list[tuple[str | bytes, msgspec.Raw]]:
    """Each entry with its ``mediaId``, or with its own bytes where it has none."""
    identified: list[tuple[str | bytes, msgspec.Raw]] = []
    for index, entry in enumerate(_ENTRIES.decode(value)):
        media_id = media_id_of(name, index, entry)
        identified.append((bytes(entry) if media_id is None else media_id, entry))
    return identified
