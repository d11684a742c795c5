"""Cambrion's dialect, inbound: media in, an observation out. Key in ``X-API-Key``.

Owns: the fields of an execute call, what they mean and which mean nothing yet; the answers' and the
errors' forms; the events that a stream adds to the dialect.
Does not know: HTTP, upstreams, the other dialect.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gateway.dialects.events import event_json
from gateway.dialects.wire import Origin, decode, decode_base64, make_media
from gateway.errors import Code, GatewayError, RequestRejected
from gateway.lifting import LiftedText
from gateway.model import Event, Frames, Request, Result
from gateway.observation import append
from gateway.sse import encode

KEY_HEADER: Final = "X-API-Key"


class _ExecuteBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    execution_id: str | UnsetType | None = UNSET
    tag: str | UnsetType | None = UNSET
    transient: bool | UnsetType | None = UNSET
    transform: str | UnsetType | None = UNSET
    idempotent: bool | UnsetType | None = UNSET
    media: list[Raw] | UnsetType | None = UNSET
    observation: Raw | UnsetType = UNSET
    text: str | UnsetType | None = UNSET
    try_image_conversion: bool | UnsetType | None = UNSET
    try_simple_text: bool | UnsetType | None = UNSET
    runtime_parameters: dict[str, Any] | UnsetType | None = UNSET
    hook_ids: list[str] | UnsetType | None = UNSET


_decoder = msgspec.json.Decoder(_ExecuteBody)
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def parse_request(origin: Origin, body: bytes | LiftedText) -> Request:
    """The body of an execute call as a ``Request``.

    Raises:
        RequestRejected: not JSON, a wrong type, bad base64, nothing to run on, or a field that this
            gateway cannot honour.
    """
    if isinstance(body, bytes):
        return _request(origin, decode(_decoder, body), {})
    # Only as whole elements of ``media`` are strings of use as they were lifted out. Anything else
    # is read as it was sent, and so is what cannot be read, for the error to tell of that.
    lifted = {b'"%b"' % string.mark: string.data for string in body.strings}
    try:
        fields = decode(_decoder, body.text)
    except RequestRejected:
        fields = None
    if fields is None or not lifted.keys() <= set(map(bytes, fields.media or ())):
        del lifted
        return _request(origin, decode(_decoder, body.whole()), {})
    body.strings.clear()
    return _request(origin, fields, lifted)


def _request(origin: Origin, fields: _ExecuteBody, lifted: Mapping[bytes, bytes]) -> Request:
    """``lifted``: the media that are decoded already, by the JSON text of their elements."""
    observation = None if fields.observation is UNSET else _observation(fields.observation)
    execution_id = fields.execution_id or None
    if execution_id is not None and not origin.keeps:
        raise RequestRejected(
            "executionId: there is no such execution (this gateway keeps none yet); "
            "leave it out and send media, text or an observation"
        )
    if fields.hook_ids and not origin.keeps:
        raise RequestRejected(
            "hookIds: this gateway keeps no executions that webhooks could be told of",
            code=Code.NOT_SUPPORTED,
        )
    files = []
    if fields.media:
        files = [
            ((lifted and lifted.get(bytes(raw))) or decode_base64(raw, f"media[{index}]"), None)
            for index, raw in enumerate(fields.media)
        ]
    text = None if fields.text is UNSET else fields.text
    if not files and not text and observation is None and execution_id is None:
        raise RequestRejected("nothing to run on: send media, text or an observation")
    parameters: Mapping[str, Any] = _NOTHING
    context = None
    if fields.runtime_parameters:
        parameters = dict(fields.runtime_parameters)
        context = parameters.pop("context", None)
        if context is not None and not isinstance(context, str):
            raise RequestRejected("runtimeParameters.context: expected a string")
    # In the order of its fields: so many by their names take msgspec five times as long.
    return Request(
        origin.pipeline,
        origin.request_id,
        text,
        context,
        make_media(files, origin.media_max) if files else (),
        observation,
        execution_id,
        None if fields.tag is UNSET else fields.tag,
        parameters,
        _NOTHING,  # meta
        fields.transient is True,
        fields.idempotent is True,
        fields.try_image_conversion is True,
        fields.try_simple_text is True,
        None if fields.transform is UNSET else fields.transform,
        origin.stream,
        origin.headers,
        origin.key,
        tuple(fields.hook_ids) if fields.hook_ids else (),
    )


def _observation(raw: Raw) -> bytes | None:
    text = bytes(raw)
    if text == b"null":
        return None
    if not text.startswith(b"{"):
        raise RequestRejected("observation: expected an object")
    try:
        msgspec.json.decode(text)  # numbers that are out of range are found only here
        append(text, text, replace=True)
    except ValueError as error:
        raise RequestRejected(f"observation: {error}") from error
    except RequestRejected as error:
        raise RequestRejected(f"observation: {error.message}") from error
    return text


def render_event(event: Event) -> bytes:
    """The SSE frames of one event."""
    if isinstance(event, Frames):
        return event.data
    return encode(event_json(event))


def render_result(result: Result, *, view: bool) -> bytes:
    """The body of a plain answer: ``{executionId, observation}``, or the caller's own view.

    A view that yields nothing is ``null``: the dialect has no other word for it.
    """
    if view:
        return b"null" if result.view is None else result.view
    return msgspec.json.encode(
        {"executionId": result.execution_id, "observation": Raw(result.observation or b"{}")}
    )


def render_error(error: GatewayError) -> bytes:
    """``{code, message}``."""
    return msgspec.json.encode({"code": error.code, "message": error.message})
