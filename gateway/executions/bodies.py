"""Executions as Cambrion's API writes them: what is sent to make one, what is shown of one.

Owns: the fields of both, what each may hold; how an uploaded file may be written; what a list's
query may ask for; what is answered for an observation that is not there yet.
Does not know: HTTP, where any of it is kept, whose it is.
"""

from __future__ import annotations

import binascii
import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from gateway.dialects.wire import check_unique_keys, decode
from gateway.errors import Code, RequestRejected
from gateway.executions.records import Execution, checked_id
from gateway.mediatype import OCTET_STREAM, detect, extension
from gateway.model import Media
from gateway.observation import LISTS, media_id_of

TAG_CHARS_MAX: Final = 256
META_BYTES_MAX: Final = 16 * 1024
HOOKS_MAX: Final = 16
LIMIT: Final = 100
LIMIT_MAX: Final = 1000
#: Where the executions of a list are longer than this together, it goes on in another one: while
#: they are written down, nothing else goes on.
LIST_BYTES: Final = 2 * 1024 * 1024

_LIMIT: Final = re.compile(r"[1-9][0-9]{0,3}")
_PIECE_CHARS: Final = 1 << 18
_LINE_ENDS: Final = b"\r\n"
#: What a browser that is led straight to a file may show: it has nothing in it that runs.
_SHOWN: Final = frozenset(
    ("image/png", "image/jpeg", "image/tiff", "image/gif", "image/webp", "image/bmp", "text/plain")
)


class Given(Struct, frozen=True):
    """An execution as a client wants it; ``id`` and ``tag`` are ``None`` where it does not say."""

    id: str | None = None
    tag: str | None = None
    meta: bytes = b"{}"
    hook_ids: tuple[str, ...] = ()


class Listing(Struct, frozen=True):
    """Which executions a list is to have: those of one ``tag``, behind the one whose ID is
    ``after``, ``limit`` at most."""

    tag: str | None = None
    after: str | None = None
    limit: int = LIMIT


class _Body(Struct, rename="camel", forbid_unknown_fields=True):
    """What GET shows may come back; what the gateway says itself is passed over."""

    execution_id: str | UnsetType | None = UNSET
    tag: str | UnsetType | None = UNSET
    meta_data: Raw | UnsetType = UNSET
    hook_ids: list[str] | UnsetType | None = UNSET
    created_at: Raw | UnsetType = UNSET
    completed_at: Raw | UnsetType = UNSET
    duration: Raw | UnsetType = UNSET
    status: Raw | UnsetType = UNSET
    message: Raw | UnsetType = UNSET


_decoder = msgspec.json.Decoder(_Body)
# What is large is looked at in pieces, because each of them holds the interpreter: in a thread,
# others run in between.
_fields = msgspec.json.Decoder(dict[str, Raw])
_entries = msgspec.json.Decoder(list[Raw])


def parse_given(body: bytes) -> Given:
    """The body of a call that makes an execution; it may be empty.

    Raises RequestRejected (400), naming the field.
    """
    if not body.strip():
        return Given()
    fields = decode(_decoder, body)
    return Given(
        id=checked_id(fields.execution_id, "executionId") if fields.execution_id else None,
        tag=checked_tag(fields.tag or None),
        meta=b"{}" if isinstance(fields.meta_data, UnsetType) else _meta(bytes(fields.meta_data)),
        hook_ids=checked_hooks(fields.hook_ids or ()),
    )


def checked_tag(tag: str | None) -> str | None:
    """``tag``, where it is one that executions can be found by. Raises RequestRejected (400)."""
    if tag is not None and len(tag) > TAG_CHARS_MAX:
        raise RequestRejected(f"tag: longer than {TAG_CHARS_MAX} characters")
    return tag


def checked_hooks(given: Sequence[str]) -> tuple[str, ...]:
    """The IDs of webhooks that are to be told of an execution, each once; whether there are such
    webhooks is not looked at. Raises RequestRejected (400)."""
    if len(given) > HOOKS_MAX:
        raise RequestRejected(f"hookIds: at most {HOOKS_MAX} are allowed")
    return tuple(
        dict.fromkeys(checked_id(each, f"hookIds[{number}]") for number, each in enumerate(given))
    )


def _meta(text: bytes) -> bytes:
    if text == b"null":
        return b"{}"
    if len(text) > META_BYTES_MAX:
        raise RequestRejected(f"metaData: longer than {META_BYTES_MAX} bytes")
    if not text.startswith(b"{"):
        raise RequestRejected("metaData: expected an object")
    try:
        msgspec.json.decode(text)  # numbers that are out of range are found only here
    except ValueError as error:
        raise RequestRejected(f"metaData: {error}") from error
    return text


def parse_observation(body: bytes) -> bytes:
    """The body of a call that adds to an observation, which is a JSON object. The entries of its
    lists are such as can be found by their ``mediaId`` later; what else its fields are has not been
    looked at. Raises RequestRejected (400)."""
    if not body.lstrip().startswith(b"{"):
        raise RequestRejected("the observation is not a JSON object")
    try:
        for name, value in _fields.decode(body).items():
            listed = bytes(memoryview(value)[:1]) == b"["
            for number, part in enumerate(_entries.decode(value) if listed else (value,)):
                msgspec.json.decode(part)
                if listed and name in LISTS:
                    media_id_of(name, number, part)
    except RecursionError as error:
        raise RequestRejected("the observation is nested too deeply") from error
    except ValueError as error:
        raise RequestRejected(f"the observation is not valid JSON: {error}") from error
    check_unique_keys(body, 1)
    return body


def parse_media(body: bytes, media_id: str, *, bytes_max: int) -> Media:
    """An uploaded file: its bytes, or their base64, with line breaks or without.

    A text is base64 where it decodes to a file of a kind that is known; else it is that text.

    Raises RequestRejected: it is empty (400), or longer than ``bytes_max`` once decoded (413).
    """
    if not body:
        raise RequestRejected("the request body is empty; expected a file, or its base64")
    content_type = detect(body)
    if content_type == "text/plain":
        decoded = _from_base64(body)
        decoded_type = detect(decoded) if decoded else OCTET_STREAM
        if decoded_type != OCTET_STREAM:
            body, content_type = decoded, decoded_type
    if len(body) > bytes_max:
        raise RequestRejected(
            f"the file has {len(body)} bytes; at most {bytes_max} are kept "
            f"(executions.media_bytes_max)",
            code=Code.TOO_LARGE,
        )
    return Media(media_id, body, content_type)


def _from_base64(text: bytes) -> bytes:
    """What ``text`` is the base64 of; nothing where it is none."""
    data, rest, padded = io.BytesIO(), b"", False
    for start in range(0, len(text), _PIECE_CHARS):
        piece = rest + text[start : start + _PIECE_CHARS].translate(None, _LINE_ENDS)
        whole = len(piece) // 4 * 4
        piece, rest = piece[:whole], piece[whole:]
        try:
            decoded = binascii.a2b_base64(piece, strict_mode=True)
        except binascii.Error:
            return b""
        if padded and piece:
            return b""
        padded = padded or len(decoded) * 4 != whole * 3
        data.write(decoded)
    return b"" if rest else data.getvalue()


def media_fields(media: Media) -> str:
    """The lines of an answer's head that keep a browser from running what is in a file."""
    fields = "X-Content-Type-Options: nosniff\r\nContent-Security-Policy: sandbox\r\n"
    if media.content_type in _SHOWN:
        return fields
    name = f"{media.id}{extension(media.content_type)}"
    return f'{fields}Content-Disposition: attachment; filename="{name}"\r\n'


def parse_listing(query: Mapping[str, str]) -> Listing:
    """What a list's query asks for. Raises RequestRejected (400), naming the parameter."""
    limit = query.get("limit", str(LIMIT))
    if _LIMIT.fullmatch(limit) is None or int(limit) > LIMIT_MAX:
        raise RequestRejected(f"query parameter limit: expected a number from 1 to {LIMIT_MAX}")
    after = query.get("after")
    return Listing(
        tag=checked_tag(query.get("tag") or None),  # no execution has an empty one
        after=None if after is None else checked_id(after, "query parameter after"),
        limit=int(limit),
    )


def next_fields(listing: Listing, last: Execution) -> str:
    """The line of a list's head that tells where it goes on behind ``last``."""
    query: dict[str, str | int] = {"limit": listing.limit, "after": last.key.id}
    if listing.tag is not None:
        query["tag"] = listing.tag
    return f'Link: </v1/executions?{urlencode(query)}>; rel="next"\r\n'


def render_execution(execution: Execution) -> bytes:
    """``{executionId, tag, createdAt, completedAt, duration, status, message, metaData, hookIds}``:
    what is not known yet is not there. ``duration`` is in seconds."""
    shown: dict[str, Any] = {"executionId": execution.key.id}
    optional = {
        "tag": execution.tag,
        "createdAt": _time(execution.created_at),
        "completedAt": None if execution.completed_at is None else _time(execution.completed_at),
        "duration": None if execution.duration_s is None else round(execution.duration_s, 6),
        "status": execution.status,
        "message": execution.message,
    }
    shown |= {name: value for name, value in optional.items() if value is not None}
    shown |= {"metaData": Raw(execution.meta), "hookIds": execution.hook_ids}
    return msgspec.json.encode(shown)


def render_page(executions: Sequence[Execution]) -> list[bytes]:
    """Each as ``render_execution`` writes it, up to the one with which they reach LIST_BYTES."""
    items: list[bytes] = []
    size = 0
    for each in executions:
        if size >= LIST_BYTES:
            break
        items.append(render_execution(each))
        size += len(items[-1])
    return items


def render_list(items: Sequence[bytes]) -> bytes:
    """A JSON list of what is JSON text already."""
    return b"[" + b",".join(items) + b"]"


def no_observation(execution_id: str) -> bytes:
    """The observation of an execution that nothing was found in yet."""
    return msgspec.json.encode({"executionId": execution_id, "mediaContents": [], "documents": []})


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
