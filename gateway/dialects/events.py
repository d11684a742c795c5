"""The JSON of streamed events, both ways: the form that both dialects' streams share.

Owns: ``LAYER_MESSAGE``, ``STREAMING_RESPONSE``, ``LAYER_RESPONSE`` and ``OBSERVATION`` as JSON.
Does not know: how events are framed (``sse``), nor who sends or receives them.
"""

from __future__ import annotations

import json
from typing import Any, assert_never

import msgspec

from gateway.model import (
    ActorError,
    ActorResponse,
    Delta,
    Event,
    Failed,
    Frames,
    LayerFinished,
    LayerStarted,
    ObservationReady,
    RawEvent,
)

# A field that is null is absent: there are writers of JSON that leave none out.


class _WireResponse(msgspec.Struct, rename="camel"):
    actor_id: str
    message: str | None = None
    errors: list[Any] | None = None
    info: list[Any] | None = None


class _WireEvent(msgspec.Struct, rename="camel"):
    type: str
    layer_id: str | int | None = None
    actor_id: str | None = None
    message: str | None = None
    finished: bool | None = None
    last_layer: bool | None = None
    last: bool | None = None
    execution_count: int | None = None
    responses: list[_WireResponse] | None = None


_event_decoder = msgspec.json.Decoder(_WireEvent)
_responses_decoder = msgspec.json.Decoder(list[_WireResponse])
_encode = msgspec.json.encode


def parse_event(raw: bytes) -> Event:
    """One event's JSON text as an ``Event`` that keeps the text in ``raw``. A message may begin or
    end with half of a surrogate pair.

    Raises:
        ValueError: not JSON, or not of the form its type has.
    """
    try:
        wire = _decoded(raw)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    layer_id = "" if wire.layer_id is None else str(wire.layer_id)
    if wire.type == "STREAMING_RESPONSE":
        if wire.actor_id is None:
            raise ValueError("a STREAMING_RESPONSE without actorId")
        return Delta(
            actor_id=wire.actor_id,
            message=wire.message or "",
            layer_id=layer_id,
            finished=bool(wire.finished),
            last_layer=bool(wire.last_layer),
            raw=raw,
        )
    if wire.type == "LAYER_RESPONSE":
        return LayerFinished(
            layer_id=layer_id,
            responses=tuple(map(_response, wire.responses or ())),
            last=bool(wire.last),
            execution_count=wire.execution_count,
            raw=raw,
        )
    if wire.type == "LAYER_MESSAGE":
        return LayerStarted(
            layer_id=layer_id,
            message=wire.message or "",
            execution_count=wire.execution_count,
            raw=raw,
        )
    return RawEvent(raw)


def _decoded(raw: bytes) -> _WireEvent:
    try:
        return _event_decoder.decode(raw)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if b"\\u" not in raw:
            raise
    # Who cuts text into pieces may cut in two what JSON escapes as two: each half is no character,
    # and only together they are decoded by the rules.
    return msgspec.convert(json.loads(raw), _WireEvent)


def parse_responses(raw: bytes) -> tuple[ActorResponse, ...]:
    """The JSON list that a plain query is answered with. Raises ValueError."""
    try:
        return tuple(map(_response, _responses_decoder.decode(raw)))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _response(wire: _WireResponse) -> ActorResponse:
    return ActorResponse(
        actor_id=wire.actor_id,
        message=wire.message or "",
        errors=tuple(map(_actor_error, wire.errors or ())),
        info=tuple(wire.info or ()),
    )


def _actor_error(error: Any) -> ActorError:
    if isinstance(error, dict):
        return ActorError(str(error.get("message", "")), str(error.get("name", "Error")))
    return ActorError(str(error), "Error")


def event_json(event: Event) -> bytes:
    """The JSON text of one event. An event that came with its text is not written again."""
    match event:
        case LayerStarted() | Delta() | LayerFinished() if event.raw is not None:
            return event.raw
        case RawEvent():
            return event.raw
        case Delta():
            value: dict[str, Any] = {
                "type": "STREAMING_RESPONSE",
                "actorId": event.actor_id,
                "message": event.message,
                "layerId": event.layer_id,
            }
            if event.finished:
                value["finished"] = True
            if event.last_layer:
                value["lastLayer"] = True
        case LayerStarted():
            value = {
                "type": "LAYER_MESSAGE",
                "message": event.message,
                "layerId": event.layer_id,
            }
            if event.execution_count is not None:
                value["executionCount"] = event.execution_count
        case LayerFinished():
            value = {
                "type": "LAYER_RESPONSE",
                "layerId": event.layer_id,
                "responses": responses_value(event.responses),
            }
            if event.last:
                value["last"] = True
            if event.execution_count is not None:
                value["executionCount"] = event.execution_count
        case Failed():
            value = {
                "type": "LAYER_RESPONSE",
                "layerId": event.layer_id,
                "responses": responses_value(event.responses),
                "last": True,
            }
        case ObservationReady():
            value = {"type": "OBSERVATION"}
            if event.execution_id is not None:
                value["executionId"] = event.execution_id
            value["observation"] = msgspec.Raw(event.observation)
        case Frames():
            raise TypeError("Frames are sent as they are; they have no JSON of their own")
        case _:
            assert_never(event)
    return _encode(value)


def responses_value(responses: tuple[ActorResponse, ...]) -> list[dict[str, Any]]:
    """Actors' answers as the JSON list both ``LAYER_RESPONSE`` and a plain query have."""
    return [
        {
            "actorId": response.actor_id,
            "message": response.message,
            "errors": [{"message": e.message, "name": e.name} for e in response.errors],
            "info": list(response.info),
        }
        for response in responses
    ]
