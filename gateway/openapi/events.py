"""What streams tell, as the document describes it.

Owns: the schemas of events, and a stream to show.
Does not know: which calls stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gateway.executions.records import Status
from gateway.openapi.parts import Json, many, record, ref, text

_TYPES: Final = {
    "LAYER_MESSAGE": "LayerMessage",
    "STREAMING_RESPONSE": "StreamingResponse",
    "LAYER_RESPONSE": "LayerResponse",
    "OBSERVATION": "ObservationFound",
    "EXECUTION_STATUS": "StatusTold",
}
_LAYER: Final = text("Which layer of the pipeline, from 0.")
_ACTOR: Final = text("Which of the layer's actors.")
_COUNT: Final[Json] = {
    "type": ["integer", "null"],
    "description": "How often the layer has run.",
}


def _event(kind: str, description: str, properties: dict[str, Json], *required: str) -> Json:
    fields = {"type": {"const": kind}} | properties
    return record(fields, "type", *required, description=description)


SCHEMAS: Final[dict[str, Json]] = {
    "ActorError": record(
        {"name": text("An exception-like name."), "message": text()},
        "name",
        "message",
        description="Why an actor has failed.",
    ),
    "ActorResponse": record(
        {
            "actorId": _ACTOR,
            "message": text("Its whole text; what it had said so far, where it has failed."),
            "errors": many(ref("ActorError"), "Empty where it has not failed."),
            "info": many({}),
        },
        "actorId",
        "message",
        "errors",
        "info",
        description="One actor's whole answer.",
    ),
    "LayerMessage": _event(
        "LAYER_MESSAGE",
        "A layer begins.",
        {"layerId": _LAYER, "message": text(), "executionCount": _COUNT},
        "layerId",
        "message",
    ),
    "StreamingResponse": _event(
        "STREAMING_RESPONSE",
        "A piece of one actor's text. An actor's pieces, one after the other, are its message; "
        "pieces of several actors come as they are said.",
        {
            "actorId": _ACTOR,
            "layerId": _LAYER,
            "message": text(),
            "finished": {"type": ["boolean", "null"], "description": "It is the actor's last."},
            "lastLayer": {"type": ["boolean", "null"], "description": "No layer follows."},
        },
        "actorId",
        "layerId",
        "message",
    ),
    "LayerResponse": _event(
        "LAYER_RESPONSE",
        "A layer is done. Where `last` is true nothing follows in a query's stream; a run that "
        "cannot go on ends with such an event, its errors in it.",
        {
            "layerId": _LAYER,
            "responses": many(ref("ActorResponse")),
            "last": {"type": ["boolean", "null"]},
            "executionCount": _COUNT,
        },
        "layerId",
        "responses",
    ),
    "ObservationFound": _event(
        "OBSERVATION",
        "What was found, whole; the last event of a stream of executeSync that went well.",
        {
            "executionId": text(),
            "observation": {"description": "An Observation, or what the pipeline makes of it."},
        },
        "observation",
    ),
    "StatusTold": _event(
        "EXECUTION_STATUS",
        "What an execution's status is from now on. QUEUED, or an attempt over 1, says that a run "
        "begins again: what its stream has said so far is void.",
        {
            "executionId": text(),
            "status": ref("Status"),
            "attempt": {"type": "integer"},
            "message": text("Why it has FAILED."),
        },
        "executionId",
        "status",
    ),
    "Status": {"type": "string", "enum": list(Status), "description": "How far an execution is."},
    "OtherEvent": {
        "description": "An event of another type, or what a pipeline's own `event` transform makes "
        "of one. To be passed over by who does not know it.",
        "not": record({"type": {"enum": list(_TYPES)}}, "type"),
    },
    "PipelineEvent": {
        "description": "The JSON of one event's `data`.",
        "oneOf": [ref(name) for name in (*_TYPES.values(), "OtherEvent")],
    },
}

_RESPONSES: Final = [
    {"actorId": "reader", "message": "Hello world", "errors": [], "info": []},
]
_STORY: Final[list[Json]] = [
    {"type": "LAYER_MESSAGE", "message": "Executing layer 0...", "layerId": "0"},
    {
        "type": "STREAMING_RESPONSE",
        "actorId": "reader",
        "message": "Hello ",
        "layerId": "0",
        "lastLayer": True,
    },
    {
        "type": "STREAMING_RESPONSE",
        "actorId": "reader",
        "message": "world",
        "layerId": "0",
        "lastLayer": True,
        "finished": True,
    },
    {"type": "LAYER_RESPONSE", "layerId": "0", "responses": _RESPONSES, "last": True},
]
_FOUND: Final[Json] = {
    "type": "OBSERVATION",
    "executionId": "june-17",
    "observation": {
        "mediaContents": [{"id": "reader", "mediaId": "reader", "rawText": "Hello world"}]
    },
}
_STATUSES: Final = [
    {"type": "EXECUTION_STATUS", "executionId": "june-17", "status": status}
    for status in (Status.QUEUED, Status.RUNNING, Status.COMPLETED)
]


def _written(events: Sequence[Any], *, numbered: bool = False) -> str:
    frames = []
    for number, event in enumerate(events, start=1):
        head = f"id: 1-{number}\n" if numbered else ""
        frames.append(f"{head}data: {msgspec.json.encode(event).decode()}\n\n")
    return "".join(frames)


#: Answers that show what a query, an executeSync and an execution stream.
QUERY: Final = {"twoPieces": _written(_STORY)}
EXECUTE: Final = {"twoPieces": _written([*_STORY, _FOUND])}
WATCH: Final = {
    "fromTheBeginning": _written([*_STATUSES[:2], *_STORY, _FOUND, _STATUSES[2]], numbered=True)
}
#: What a plain query is answered with.
RESPONSES: Final = {"oneActor": _RESPONSES}
