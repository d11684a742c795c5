"""The calls on webhooks, as the document describes them.

Owns: these operations, the schemas of their bodies.
Does not know: the errors that they can end in.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.executions.hook_definitions import ENDPOINT_CHARS_MAX, PayloadType
from gateway.executions.records import HookEvent
from gateway.openapi.parts import (
    Json,
    answer,
    call,
    content,
    link,
    many,
    optional_text,
    record,
    ref,
    text,
)
from gateway.openapi.pipelines import ID, ID_OR_NONE

_TAG: Final = "Webhooks"
#: One line without control characters.
_LINE: Final = "^[^\\u0000-\\u001f\\u007f]*$"
#: The base64 of 24 to 64 bytes, padded or not.
_SIGNER: Final = (
    "^whsec_("
    "([A-Za-z0-9+/]{4}){8,20}([A-Za-z0-9+/]{2}(==)?|[A-Za-z0-9+/]{3}=?)?|"
    "([A-Za-z0-9+/]{4}){21}([A-Za-z0-9+/]{2}(==)?)?)$"
)
_STATUSES: Final[Json] = ref("Status")
_EVENT: Final[Json] = {
    "enum": list(HookEvent),
    "description": "What it is told of. STATUS_CHANGE: an execution's status, if it is one of "
    "`statusFilter`; OBSERVATION_UPDATE: something was found; SUBMIT: a call of submit.",
}
_PAYLOADS: Final = (
    "RAW: the observation; JSON: its plain JSON; TRANSFORM: what `transform` makes of it; FORM and "
    "FORM_TRANSFORM: a form with that JSON, or that result, and the execution's files."
)


def _or_null(schema: Json) -> Json:
    made = dict(schema)
    if "enum" in made:
        made["enum"] = [*made["enum"], None]
    else:
        made["type"] = [made["type"], "null"]
    return made


_PAYLOAD: Final[Json] = {"enum": list(PayloadType), "description": _PAYLOADS}
_LABEL: Final[Json] = text(pattern=_LINE, maxLength=256)
_HEADERS: Final[Json] = {
    "type": "object",
    "maxProperties": 32,
    "propertyNames": {"pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"},
    "additionalProperties": text(pattern="^([!-~]([\\t -~]*[!-~])?)?$"),
    "description": "To send along, such as a key of the receiver's; 8 KiB at most. Not those that "
    "the gateway writes itself, nor those of one connection (hop by hop).",
}
_ENDPOINT: Final[Json] = text(
    "Where it is sent. Private addresses have to be allowed by the configuration.",
    format="uri",
    maxLength=ENDPOINT_CHARS_MAX,
)
_FIELDS: Final[dict[str, Json]] = {
    "eventType": _EVENT,
    "endpoint": _ENDPOINT,
    "name": _or_null(_LABEL),
    "hookType": {"enum": ["WEBHOOK", None]},
    "headers": _or_null(_HEADERS),
    "statusFilter": _or_null(many(_STATUSES, "Empty for all.")),
    "payloadType": _or_null(_PAYLOAD),
    "transform": optional_text("JSONata, for payloads of TRANSFORM.", format="jsonata"),
    "formPayloadKey": _or_null(_LABEL),
    "formDocumentKey": _or_null(_LABEL),
    "enabled": {"type": ["boolean", "null"], "default": True},
    "secret": optional_text(
        "What its messages are signed with. Absent: a new one is made; when it is changed, the old "
        "one stays.",
        pattern=_SIGNER,
    ),
    "hookId": optional_text("Absent: the gateway makes an ID.", pattern=ID_OR_NONE),
    "createdAt": optional_text("Passed over."),
}

SCHEMAS: Final[dict[str, Json]] = {
    "HookDefinition": record(
        _FIELDS,
        "eventType",
        "endpoint",
        closed=True,
        allOf=[
            {
                "if": {
                    "required": ["payloadType"],
                    "properties": {"payloadType": {"enum": ["TRANSFORM", "FORM_TRANSFORM"]}},
                },
                "then": {
                    "required": ["transform"],
                    "properties": {"transform": {"type": "string", "minLength": 1}},
                },
            }
        ],
    ),
    "Hook": record(
        {
            "hookId": text(pattern=ID),
            "name": text(),
            "eventType": _EVENT,
            "hookType": {"const": "WEBHOOK"},
            "endpoint": text(),
            "headers": {"type": "object", "additionalProperties": text()},
            "statusFilter": many(_STATUSES),
            "payloadType": _PAYLOAD,
            "transform": text(),
            "formPayloadKey": text(),
            "formDocumentKey": text(),
            "enabled": {"type": "boolean"},
            "createdAt": text(format="date-time"),
            "secret": text(
                "Only in the answer to who has just made it or changed the secret: never shown "
                "again."
            ),
        },
        "hookId",
        "eventType",
        "hookType",
        "endpoint",
        "headers",
        "statusFilter",
        "payloadType",
        "formPayloadKey",
        "formDocumentKey",
        "enabled",
        "createdAt",
    ),
}

_NAME: Final = "told-when-done"
_GIVEN: Final[dict[str, Any]] = {
    "hookId": _NAME,
    "eventType": "STATUS_CHANGE",
    "endpoint": "https://example.org/told",
    "statusFilter": ["COMPLETED", "FAILED"],
}
_SHOWN: Final[dict[str, Any]] = {
    "hookId": _NAME,
    "eventType": "STATUS_CHANGE",
    "hookType": "WEBHOOK",
    "endpoint": "https://example.org/told",
    "headers": {},
    "statusFilter": ["COMPLETED", "FAILED"],
    "payloadType": "RAW",
    "formPayloadKey": "payload",
    "formDocumentKey": "documents",
    "enabled": True,
    "createdAt": "2026-06-17T09:30:00.125Z",
}


def paths() -> dict[str, dict[str, Json]]:
    """The calls on webhooks."""
    hook = ref("hookId", "parameters")
    body = content(ref("HookDefinition"), {"whenDone": _GIVEN})
    changed = {name: value for name, value in _GIVEN.items() if name != "hookId"}
    shown = content(ref("Hook"), {"whenDone": _SHOWN})
    made = content(ref("Hook"), {"whenDone": _SHOWN | {"secret": f"whsec_{'c2VjcmV0' * 4}"}})
    links = {
        "hook": link("getHook", "hookId"),
        "change": link("putHook", "hookId"),
        "remove": link("deleteHook", "hookId"),
    }
    return {
        "/v1/hooks": {
            "post": call(
                "createHook",
                _TAG,
                "Make a webhook",
                {200: answer("It was made; with its secret.", made, links=links)},
                body=body,
            ),
            "get": call(
                "listHooks",
                _TAG,
                "List webhooks, the oldest first",
                {200: answer("Without secrets.", content(many(ref("Hook")), {"one": [_SHOWN]}))},
            ),
        },
        "/v1/hooks/{hookId}": {
            "get": call(
                "getHook",
                _TAG,
                "Get a webhook",
                {200: answer("Without its secret.", shown)},
                parameters=[hook],
            ),
            "put": call(
                "putHook",
                _TAG,
                "Change a webhook",
                {200: answer("As it is from now on.", shown)},
                description="The whole webhook anew. A secret that is left out stays; one that is "
                "replaced signs on beside the new one for a day.",
                body=content(
                    ref("HookDefinition"),
                    {"paused": changed | {"enabled": False}},
                ),
                parameters=[hook],
            ),
            "delete": call(
                "deleteHook",
                _TAG,
                "Remove a webhook, and what waits to be delivered to it",
                {204: answer("Done.")},
                parameters=[hook],
            ),
        },
    }


def parameters() -> dict[str, Json]:
    """Their parameters, by name."""
    return {
        "hookId": {
            "name": "hookId",
            "in": "path",
            "required": True,
            "schema": text(pattern=ID),
            "example": _NAME,
        }
    }
