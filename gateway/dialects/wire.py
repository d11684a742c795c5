"""Reading what callers send: strict JSON and strict base64, with errors that say where.

Owns: the decoding of a request body into a checked structure, the search for duplicate keys, the
decoding of base64 media, and what both dialects know of a request before its body.
Does not know: either dialect's fields.
"""

from __future__ import annotations

import binascii
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, field

from gateway.errors import RequestRejected
from gateway.mediatype import detect
from gateway.model import Media

T = TypeVar("T", bound=msgspec.Struct)

_KEY: Final = re.compile(rb'"[ \t\r\n]*:')
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/=]")
# A multiple of 4, so that every piece but the last decodes by itself. Decoded in pieces because
# each piece holds the interpreter: in a thread, others run in between.
_PIECE_CHARS: Final = 1 << 18

# How deep a text may nest is what is left of the stack. What is read here is written and read again
# by others, with more calls on theirs, so so much is spared for them; a text of fewer bytes does
# not nest so deep.
_LEVELS_SPARED: Final = 40
_DEEP_BYTES: Final = 1000


class Origin(Struct, frozen=True):
    """What is known of a request before its body is read. ``media_max``: the most files it may
    carry; ``headers``: the allow-listed ones; ``key``: the name of the caller's key; ``keeps``:
    whether there are executions that outlive a request."""

    pipeline: str
    request_id: str
    stream: bool = False
    media_max: int = 64
    headers: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart form: ``filename`` is ``None`` for a plain field."""

    name: str
    data: bytes
    filename: str | None = None


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a request body, one JSON object.

    Raises:
        RequestRejected: not JSON, not of the expected form, nested too deeply, or a key twice.
    """
    try:
        # What is short nests no deeper than can be borne anywhere.
        deep = len(body) >= _DEEP_BYTES
        value = _beneath(_LEVELS_SPARED, decoder, body) if deep else decoder.decode(body)
    except msgspec.ValidationError as error:
        raise RequestRejected(f"the request body does not fit: {_readable(str(error))}") from error
    except msgspec.DecodeError as error:
        if not body:
            raise RequestRejected("the request body is empty; expected a JSON object") from error
        if _SURROGATE.search(body):
            reason = "a \\u escape is one half of a surrogate pair without the other"
        else:
            reason = str(error).removeprefix("JSON is malformed: ")
        raise RequestRejected(f"the request body is not valid JSON: {reason}") from error
    except UnicodeDecodeError as error:
        raise RequestRejected("the request body is not valid JSON: not UTF-8") from error
    except RecursionError as error:
        raise RequestRejected("the request body is nested too deeply") from error
    if body.count(b":") < 2:
        return value  # no room for a second key
    fields = value.__struct_fields__
    seen = sum(1 for name in fields if getattr(value, name) is not msgspec.UNSET)
    check_unique_keys(body, seen)
    return value


def _beneath(calls: int, decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode with so many calls more on the stack, each of which takes the place of a level."""
    return _beneath(calls - 1, decoder, body) if calls else decoder.decode(body)


def _readable(message: str) -> str:
    """msgspec's sentence with the path first: ``text: expected `str`, got `int```."""
    what, _, path = message.partition(" - at `$")
    path = path.removesuffix("`").lstrip(".")
    what = what[:1].lower() + what[1:]
    return f"{path}: {what}" if path else what


def check_unique_keys(body: bytes, seen: int) -> None:
    """Refuse an object that has a key twice: which one counts, readers disagree about.

    A valid text has at least one ``":`` for each of its keys, so where there are no more of them
    than the ``seen`` keys, none was swallowed. Only otherwise is it read once more, key by key.
    """
    if sum(1 for _ in _KEY.finditer(body)) == seen:
        return
    try:
        json.loads(body, object_pairs_hook=_unique)
    except RecursionError as error:
        raise RequestRejected("the request body is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise RequestRejected("the request body is not valid JSON: not UTF-8") from error
    except ValueError as error:  # Python refuses to read integers of thousands of digits
        raise RequestRejected("the request body has a number that is too long") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, item in pairs:
        if name in value:
            raise RequestRejected(f'the request body has the key "{name[:80]}" more than once')
        value[name] = item
    return value


def decode_base64(raw: msgspec.Raw, where: str) -> bytes:
    """The bytes of a JSON string of standard base64 (RFC 4648 section 4, padded, no white space).

    Args:
        raw: the JSON text of the value.
        where: its path, for the error: ``media[0]``.
    """
    text = memoryview(raw)
    if bytes(text[:1]) != b'"':
        raise RequestRejected(f"{where}: expected a string of base64, got {_kind(text)}")
    text = text[1:-1]
    try:
        data = _decode_pieces(text)
    except _NotBase64 as problem:
        # JSON may write a slash as \/, as some clients do: only then is the string unescaped.
        if b"\\" not in problem.piece:
            raise RequestRejected(f"{where}: {problem.sentence()}") from problem
        unescaped = msgspec.json.decode(raw, type=str).encode()
        try:
            data = _decode_pieces(memoryview(unescaped))
        except _NotBase64 as error:
            raise RequestRejected(f"{where}: {error.sentence()}") from error
    if not data:
        raise RequestRejected(f"{where}: is empty")
    return data


class _NotBase64(ValueError):
    """``piece`` of a text, which starts at ``start``, does not decode."""

    def __init__(self, piece: bytes, start: int) -> None:
        self.piece = piece
        self.start = start

    def sentence(self) -> str:
        """What is wrong with it, and at which character of the whole text."""
        if self.start == 0 and self.piece.startswith(b"data:"):
            return "not base64 but a data: URL; send only what follows its comma"
        match = _NOT_BASE64.search(self.piece)
        if match is None:
            return "not valid base64: its padding is wrong, or it was cut short"
        found = match.group()
        if found in b"-_":
            why = f"'{found.decode()}' belongs to the URL-safe alphabet; use the standard one"
        elif found in b" \t\r\n":
            why = "white space; send the text without line breaks or blanks"
        else:
            why = "a character that base64 does not have"
        return f"not valid base64: at position {self.start + match.start()}, {why}"


def _decode_pieces(text: memoryview) -> bytes:
    data = io.BytesIO()
    for start in range(0, len(text), _PIECE_CHARS):
        piece = text[start : start + _PIECE_CHARS]
        try:
            decoded = binascii.a2b_base64(piece, strict_mode=True)
        except binascii.Error as error:
            raise _NotBase64(bytes(piece), start) from error
        if len(decoded) * 4 != len(piece) * 3 and start + len(piece) < len(text):
            raise _NotBase64(b"", start)  # padding before the end
        data.write(decoded)
    return data.getvalue()


def _kind(text: memoryview) -> str:
    kinds = {b"{": "an object", b"[": "a list", b"n": "null", b"t": "a boolean", b"f": "a boolean"}
    return kinds.get(bytes(text[:1]), "a number")


def make_media(files: Sequence[tuple[bytes, str | None]], media_max: int) -> tuple[Media, ...]:
    """Files as ``Media``: named ``media-1`` and so on, their type read from their bytes."""
    if len(files) > media_max:
        raise RequestRejected(f"{len(files)} files in one request; at most {media_max} are allowed")
    return tuple(
        Media(id=f"media-{number}", data=data, content_type=detect(data), filename=filename)
        for number, (data, filename) in enumerate(files, start=1)
    )
