"""What a webhook is sent: the body of one message.

Owns: which of an execution's things are in it, by its definition's ``payloadType``; the form.
Does not know: how an observation is seen as JSON, how expressions are evaluated, where it goes.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gateway.executions.hook_definitions import Definition, PayloadType
from gateway.mediatype import extension
from gateway.model import Media
from gateway.upstreams.outgoing import Body

#: Makes the JSON view of an observation.
AsJson = Callable[[bytes], Awaitable[bytes]]
#: Evaluates an owner's expression over an observation; ``None``: it yields nothing.
Evaluate = Callable[[str, bytes], Awaitable[bytes | None]]

_JSON: Final = "application/json"
# What a quoted parameter of a form part's header may not hold as it is.
_UNQUOTABLE: Final = re.compile(r'[\x00-\x1f\x7f"]')


async def body_of(
    definition: Definition,
    observation: bytes,
    media: Callable[[], Awaitable[Sequence[Media]]],
    *,
    as_json: AsJson,
    evaluate: Evaluate,
) -> Body:
    """The body of a message about an execution of this ``observation`` (JSON text); ``media`` is
    asked for its files where they are to be sent. A transform that yields nothing is ``null``.

    Raises GatewayError, as ``as_json``, ``evaluate`` and ``media`` do.
    """
    kind = definition.payload_type
    if kind.transforms:
        result = await evaluate(definition.transform or "$", observation)
        payload = b"null" if result is None else result
    elif kind is PayloadType.RAW:
        payload = observation
    else:
        payload = await as_json(observation)
    if kind in (PayloadType.FORM, PayloadType.FORM_TRANSFORM):
        return _form(definition, payload, await media())
    return Body(_JSON, [payload])


def _form(definition: Definition, payload: bytes, media: Sequence[Media]) -> Body:
    boundary = secrets.token_hex(16)
    segments: list[bytes | Media] = [
        _head(boundary, definition.form_payload_key, None, _JSON),
        payload,
        b"\r\n",
    ]
    for item in media:
        filename = item.filename or item.id + extension(item.content_type)
        head = _head(boundary, definition.form_document_key, filename, item.content_type)
        segments += (head, item, b"\r\n")
    segments.append(f"--{boundary}--\r\n".encode())
    return Body(f"multipart/form-data; boundary={boundary}", segments)


def _head(boundary: str, name: str, filename: str | None, content_type: str) -> bytes:
    file = "" if filename is None else f'; filename="{_quoted(filename)}"'
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"{file}\r\n'
        f"Content-Type: {content_type}\r\n\r\n"
    ).encode("utf-8", "replace")


def _quoted(value: str) -> str:
    """A header parameter's text: no control character or quote in it can end it."""
    return _UNQUOTABLE.sub(lambda match: f"%{ord(match.group()):02X}", value)
