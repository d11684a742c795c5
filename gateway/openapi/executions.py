"""The calls on executions, as the document describes them.

Owns: these operations, the schemas of their bodies.
Does not know: the errors that they can end in.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.executions.bodies import HOOKS_MAX, TAG_CHARS_MAX
from gateway.openapi.events import WATCH
from gateway.openapi.parts import (
    TEXT,
    Json,
    answer,
    call,
    content,
    link,
    many,
    optional_text,
    record,
    ref,
    stream,
    text,
)
from gateway.openapi.pipelines import ID, ID_OR_NONE

_TAG: Final = "Executions"
_OWN: Final[Json] = {"description": "What the gateway says itself; passed over."}
_WHEN: Final = "RFC 3339, UTC, to the millisecond."
_NAME: Final = "june-17"
_SHOWN: Final[dict[str, Any]] = {
    "executionId": _NAME,
    "tag": "june",
    "createdAt": "2026-06-17T09:30:00.125Z",
    "completedAt": "2026-06-17T09:30:01.5Z",
    "duration": 1.204518,
    "status": "COMPLETED",
    "metaData": {"invoice": 17},
    "hookIds": [],
}

SCHEMAS: Final[dict[str, Json]] = {
    "NewExecution": record(
        {
            "executionId": optional_text(
                "What to call it. Absent: the gateway makes an ID.", pattern=ID_OR_NONE
            ),
            "tag": optional_text("To find it by.", maxLength=TAG_CHARS_MAX),
            "metaData": {
                "type": ["object", "null"],
                "description": "Anything; shown with the execution. 16 KiB at most.",
            },
            "hookIds": {
                "type": ["array", "null"],
                "items": text(pattern=ID),
                "maxItems": HOOKS_MAX,
                "description": "Webhooks to tell of it.",
            },
            "createdAt": _OWN,
            "completedAt": _OWN,
            "duration": _OWN,
            "status": _OWN,
            "message": _OWN,
        },
        closed=True,
        description="All of it may be left out.",
    ),
    "Execution": record(
        {
            "executionId": text(pattern=ID),
            "tag": text(),
            "createdAt": text(_WHEN, format="date-time"),
            "completedAt": text(_WHEN, format="date-time"),
            "duration": {"type": "number", "description": "Seconds that its last run took."},
            "status": ref("Status"),
            "message": text("Why it has FAILED."),
            "metaData": {"type": "object"},
            "hookIds": many(text()),
        },
        "executionId",
        "createdAt",
        "metaData",
        "hookIds",
        description="Work that outlives a request: files, an observation, a status.",
    ),
    "MediaId": record({"mediaId": text(pattern=ID)}, "mediaId"),
}

_FILE: Final = text(format="binary", minLength=1)
_UPLOAD: Final[dict[str, Json]] = {
    kind: {"schema": _FILE}
    for kind in ("application/octet-stream", "image/png", "image/jpeg", "image/tiff",
                 "application/pdf", "text/plain")
}  # fmt: skip
_FOUND: Final[dict[str, Any]] = {
    "mediaContents": [{"id": "page-1", "mediaId": "letter", "rawText": "Dear all"}]
}
_OBSERVATION: Final = content(
    ref("Observation"), {"onePage": {"executionId": _NAME, **_FOUND, "documents": []}}
)
_LINKS: Final = {
    "execution": link("getExecution", "executionId"),
    "observation": link("getObservation", "executionId"),
    "addMedia": link("addMedia", "executionId"),
    "cancel": link("cancelExecution", "executionId"),
    "remove": link("deleteExecution", "executionId"),
}


def _paths_of_all() -> dict[str, dict[str, Json]]:
    new = {"withTag": {"executionId": _NAME, "tag": "june", "metaData": {"invoice": 17}}}
    return {
        "/v1/executions": {
            "post": call(
                "createExecution",
                _TAG,
                "Make an execution",
                {
                    200: answer(
                        "It was made.",
                        content(ref("Execution"), {"withoutRun": _without_run()}),
                        links=_LINKS,
                    ),
                    204: answer("One of that ID is there already; nothing was changed."),
                },
                body=content(ref("NewExecution"), new),
                body_needed=False,
            ),
            "get": call(
                "listExecutions",
                _TAG,
                "List executions, the newest first",
                {
                    200: answer(
                        "Up to `limit` of them, and 2 MiB at most. Where there are more, `Link` "
                        "leads to them.",
                        content(many(ref("Execution")), {"one": [_SHOWN]}),
                        headers={"Link": ref("Link", "headers")},
                    )
                },
                parameters=[ref(name, "parameters") for name in ("tag", "limit", "after")],
            ),
        },
    }


def _without_run() -> dict[str, Any]:
    known = ("executionId", "tag", "createdAt", "metaData", "hookIds")
    return {name: value for name, value in _SHOWN.items() if name in known}


def _paths_of_one(execution: Json) -> dict[str, dict[str, Json]]:
    done = answer("Done.")
    return {
        "/v1/executions/{executionId}": {
            "get": call(
                "getExecution",
                _TAG,
                "See how an execution is",
                {200: answer("The execution.", content(ref("Execution"), {"ended": _SHOWN}))},
                parameters=[execution],
            ),
            "delete": call(
                "deleteExecution",
                _TAG,
                "Remove an execution with all that it holds",
                {204: done},
                description="What runs of it is given up.",
                parameters=[execution],
            ),
        },
        "/v1/executions/{executionId}/cancel": {
            "post": call(
                "cancelExecution",
                _TAG,
                "Cancel an execution's runs",
                {204: answer("Done, or there was nothing to give up.")},
                parameters=[execution],
            )
        },
        "/v1/executions/{executionId}/submit": {
            "post": call(
                "submitExecution",
                _TAG,
                "Tell the webhooks that wait for SUBMIT",
                {204: done},
                parameters=[execution],
            )
        },
        "/v1/executions/{executionId}/events": {
            "get": call(
                "watchExecution",
                _TAG,
                "Watch an execution's events as a stream",
                {
                    200: answer(
                        "Events that were and that come, until the execution has ended.",
                        stream(
                            "PipelineEvent",
                            "Each event with its ID. A stream that ends before an "
                            "EXECUTION_STATUS has told of the end was cut off: attach again, at "
                            "any replica, with the last ID.",
                            WATCH,
                        ),
                    ),
                    204: answer("Nothing follows the event that was named."),
                },
                parameters=[
                    execution,
                    ref("Last-Event-ID", "parameters"),
                    ref("lastEventId", "parameters"),
                ],
            )
        },
    }


def _paths_of_media(execution: Json) -> dict[str, dict[str, Json]]:
    note = {"note": "Dear all"}
    upload = _UPLOAD | content(text(minLength=1), note, TEXT)
    return {
        "/v1/executions/{executionId}/observation/media": {
            "post": call(
                "addMedia",
                _TAG,
                "Add a file to an execution",
                {
                    200: answer(
                        "It is kept.",
                        content(ref("MediaId")),
                        links={
                            "media": link(
                                "getMedia",
                                "mediaId",
                                **{"path.executionId": "$request.path.executionId"},
                            )
                        },
                    )
                },
                description="The file itself, or its base64. Its type is read from its bytes, "
                "whatever it was sent as.",
                body=upload,
                parameters=[execution],
            )
        },
        "/v1/executions/{executionId}/observation/media/{mediaId}": {
            "get": call(
                "getMedia",
                _TAG,
                "Get a file of an execution",
                {
                    200: answer(
                        "Its bytes, and the type that they have.",
                        {"*/*": {}},
                        headers={
                            "X-Content-Type-Options": {"schema": {"const": "nosniff"}},
                            "Content-Security-Policy": {"schema": {"const": "sandbox"}},
                            "Content-Disposition": {
                                "schema": text("For what a browser could run.")
                            },
                        },
                    )
                },
                parameters=[execution, ref("mediaId", "parameters")],
            )
        },
    }


def _paths_of_observation(execution: Json) -> dict[str, dict[str, Json]]:
    plain = {200: answer("Labels as keys.", content(ref("PlainJson")))}
    body = content(ref("Observation"), {"onePage": _FOUND})
    return {
        "/v1/executions/{executionId}/observation": {
            "get": call(
                "getObservation",
                _TAG,
                "Get an execution's observation",
                {200: answer("The observation.", _OBSERVATION)},
                parameters=[execution],
            ),
            "post": call(
                "addObservation",
                _TAG,
                "Add to an execution's observation",
                {
                    200: answer("With an empty body: the observation.", _OBSERVATION),
                    204: answer("It was added."),
                },
                body=body,
                body_needed=False,
                parameters=[execution, ref("idempotent", "parameters")],
            ),
        },
        "/v1/executions/{executionId}/observation/json": {
            "get": call(
                "getPlainJson",
                _TAG,
                "Get an execution's observation as plain JSON",
                plain,
                parameters=[execution],
            ),
            "post": call(
                "postPlainJson",
                _TAG,
                "Get it as plain JSON, for clients that post",
                plain,
                parameters=[execution],
            ),
        },
        "/v1/executions/{executionId}/observation/transform": {
            "post": call(
                "transformObservation",
                _TAG,
                "Transform an execution's observation by JSONata",
                {
                    200: answer(
                        "The expression's result, JSON in either case; null for none. text/plain "
                        "where `Accept` does not take JSON.",
                        content({}, {"texts": ["Dear all"]})
                        | content({}, {"texts": '["Dear all"]'}, TEXT),
                    )
                },
                body=content(
                    text("JSONata.", format="jsonata", minLength=1),
                    {"texts": "[mediaContents.rawText]"},
                    TEXT,
                ),
                parameters=[execution],
            )
        },
    }


def paths() -> dict[str, dict[str, Json]]:
    """The calls on executions."""
    execution = ref("executionId", "parameters")
    return (
        _paths_of_all()
        | _paths_of_media(execution)
        | _paths_of_observation(execution)
        | _paths_of_one(execution)
    )


def parameters() -> dict[str, Json]:
    """Their parameters, by name."""
    return {
        "executionId": {
            "name": "executionId",
            "in": "path",
            "required": True,
            "schema": text(pattern=ID),
            "example": _NAME,
        },
        "mediaId": {
            "name": "mediaId",
            "in": "path",
            "required": True,
            "description": "As the call that added it has told.",
            "schema": text(pattern=ID),
            "example": "0b7ab1a5-9d25-4d6b-9c0e-5f0a3f2c7f11",
        },
        "tag": _query("tag", "Only those of this tag.", text(maxLength=TAG_CHARS_MAX)),
        "limit": _query(
            "limit",
            "How many at most.",
            {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
        ),
        "after": _query(
            "after",
            "Those behind the one of this ID; from the newest again where that has been removed.",
            text(pattern=ID),
        ),
        "idempotent": _query(
            "idempotent",
            "Entries of the same mediaId are replaced instead of added.",
            {"type": "boolean", "default": False},
        ),
        "lastEventId": _query(
            "lastEventId",
            "As Last-Event-ID, for who cannot send headers; that header counts where both are "
            "there.",
            text(pattern=_EVENT_ID),
        ),
        "Last-Event-ID": {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "The ID of the last event that the client has: what follows is sent.",
            "schema": text(pattern=_EVENT_ID),
        },
    }


_EVENT_ID: Final = "^([0-9]{1,9}-[0-9]{1,12})?$"


def _query(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}
