"""Pupau's dialect, inbound: a request in, layers of actors out. Key in ``Api-Key``.

Owns: the fields of a query, JSON or multipart; the answers', the events' and the errors' forms.
Does not know: HTTP, upstreams, the other dialect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from gateway.dialects.events import event_json, responses_value
from gateway.dialects.wire import Origin, Part, decode, make_media
from gateway.errors import GatewayError, RequestRejected
from gateway.model import Event, Frames, Request, Result
from gateway.sse import encode

KEY_HEADER: Final = "Api-Key"


class _QueryBody(msgspec.Struct, forbid_unknown_fields=True):
    request: str | UnsetType | None = UNSET
    context: str | UnsetType | None = UNSET


_decoder = msgspec.json.Decoder(_QueryBody)


def parse_request(origin: Origin, body: bytes | Sequence[Part]) -> Request:
    """A query as a ``Request``: its JSON text, or the parts of its form.

    Raises:
        RequestRejected: not JSON, a wrong type, an unknown part, or nothing to run on.
    """
    files: list[tuple[bytes, str | None]] = []
    if isinstance(body, bytes):
        fields = decode(_decoder, body)
        text = None if fields.request is UNSET else fields.request
        context = None if fields.context is UNSET else fields.context
    else:
        text, context, files = _form(body)
    if not files and not text:
        raise RequestRejected("nothing to run on: send a request or a file")
    return Request(
        pipeline=origin.pipeline,
        request_id=origin.request_id,
        text=text,
        context=context,
        media=make_media(files, origin.media_max) if files else (),
        stream=origin.stream,
        headers=origin.headers,
        key=origin.key,
    )


def _form(
    parts: Sequence[Part],
) -> tuple[str | None, str | None, list[tuple[bytes, str | None]]]:
    texts: dict[str, str] = {}
    files: list[tuple[bytes, str | None]] = []
    for part in parts:
        if part.name == "file":
            if not part.data:
                raise RequestRejected('form part "file": is empty')
            files.append((part.data, part.filename))
        elif part.name in ("request", "context"):
            if part.name in texts:
                raise RequestRejected(f'form part "{part.name}": given more than once')
            try:
                texts[part.name] = part.data.decode()
            except UnicodeDecodeError as error:
                raise RequestRejected(f'form part "{part.name}": not UTF-8') from error
        else:
            raise RequestRejected(
                f'form part "{part.name[:80]}": unknown; the parts are file, request and context'
            )
    return texts.get("request"), texts.get("context"), files


def render_event(event: Event) -> bytes:
    """The SSE frames of one event."""
    if isinstance(event, Frames):
        return event.data
    return encode(event_json(event))


def render_result(result: Result) -> bytes:
    """The body of a plain answer: the list of the last layer's responses."""
    if result.raw is not None:
        return result.raw
    return msgspec.json.encode(responses_value(result.responses))


def render_error(error: GatewayError) -> bytes:
    """``{name, message}``."""
    return msgspec.json.encode({"name": error.name, "message": error.message})
