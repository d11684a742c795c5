"""What a gateway answers, as an OpenAPI document: by what its configuration has, no more.

A gateway that keeps no executions has no calls on them in its document, and one with keys does not
name its pipelines there, for anybody may read it.

Owns: what the document is made of, which errors each kind of call can end in.
Does not know: who asks for it, what any one call holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from gateway import __version__
from gateway.openapi import events, executions, hooks, observations, own, pipelines, problems
from gateway.openapi.parts import Json, text

#: Names of more pipelines than these are not listed: nobody would read them.
_NAMES_MAX: Final = 1000
#: How many configurations' documents are kept: the live one's, and that of one before it.
_KEPT: Final = 2

# The statuses of errors, by what leads to them.
_EVERY: Final = frozenset((400, 408, 500, 503))
_BODY: Final = frozenset((413, 415, 417))
_RUN: Final = frozenset((429, 502, 504))
_KEPT_RUN: Final = frozenset((409, 410, 507))
_KEPT_THERE: Final = frozenset((404, 409, 410, 507))
_KEY: Final = frozenset((401, 429))

_ABOUT: Final = """\
One endpoint in front of AI pipelines, in two dialects: Cambrion's under `/v1`, Pupau's under
`/pipelines`. Both run the same pipelines.

- **Errors** are `{code, message}` in Cambrion's dialect and `{name, message}` in Pupau's, the name
being the code in capitals. Once a stream has begun, the error is its last event.
- **Streams** are server-sent events without names, each one line of JSON. Comments keep them alive.
- Every `GET` may be a `HEAD`. Every answer has an `X-Request-Id`: the caller's, or a new one.
- A key may have limits: then every answer to it has `RateLimit-Policy` and `RateLimit`.
- A field that is not listed in a request's body is an error; one in an answer is to be passed over.
"""


class Shape(NamedTuple):
    """What of a configuration can be seen in the document.

    Args:
        keeps: there are executions.
        keys: there are keys.
        metrics: /metrics is on the same port.
        names: the pipelines' names, in the order of the file.
    """

    keeps: bool = False
    keys: bool = False
    metrics: bool = True
    names: tuple[str, ...] = ()


class Described(NamedTuple):
    """The document as JSON, and its ``ETag``, quotes included."""

    text: bytes
    etag: str


@lru_cache(_KEPT)
def described(shape: Shape) -> Described:
    """The document of a gateway, as it is sent."""
    written = msgspec.json.encode(document(shape))
    return Described(written, etag(written))


def etag(content: bytes) -> str:
    """A strong validator of ``content``, as HTTP writes it."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def document(shape: Shape) -> Json:
    """The document of a gateway."""
    tags = {
        "Runs": "Pipelines are run.",
        "Pipelines": "What there is to run.",
        "Executions": "Work that outlives its request.",
        "Webhooks": "Who is told of executions.",
        "The gateway": "How it is.",
    }
    found = _paths(shape)
    used = {each["tags"][0] for path in found.values() for each in _operations(path)}
    security: list[Json] = [{name: []} for name in _SCHEMES]
    return {
        "openapi": "3.1.0",
        "info": {"title": "pipeline-gateway", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": security if shape.keys else [{}, *security],
        "tags": [
            {"name": name, "description": meaning} for name, meaning in tags.items() if name in used
        ],
        "paths": found,
        "components": _components(shape),
    }


def _operations(path: Mapping[str, Any]) -> Iterable[Json]:
    return [each for method, each in path.items() if method != "parameters"]


def _paths(shape: Shape) -> dict[str, Json]:
    key = _KEY if shape.keys else frozenset()
    runs = _EVERY | key | _BODY | _RUN | {404} | (_KEPT_RUN if shape.keeps else frozenset())
    barred = frozenset((403,)) if shape.keys else frozenset()
    there: dict[str, Json] = {}
    for path, calls in pipelines.paths(keeps=shape.keeps).items():
        listed = runs | barred
        if "get" in calls:
            listed = _EVERY | key
            if "{" in path:
                listed |= {404, 502, 504, 429} | barred
        there[path] = _failing(calls, "Cambrion", listed)
    for path, calls in pipelines.query_paths().items():
        there[path] = _failing(calls, "Pupau", runs | barred)
    if shape.keeps:
        for path, calls in (executions.paths() | hooks.paths()).items():
            there[path] = _failing(calls, "Cambrion", _EVERY | key | _BODY | _KEPT_THERE)
    open_to_all = own.paths() | (own.metrics_path() if shape.metrics else {})
    for path, calls in open_to_all.items():
        there[path] = {
            method: each | {"security": []}
            for method, each in _failing(calls, "Cambrion", _EVERY).items()
        }
    common = [{"$ref": f"#/components/parameters/{name}"} for name in _COMMON]
    return {path: {"parameters": common, **calls} for path, calls in there.items()}


def _failing(calls: Mapping[str, Json], dialect: str, listed: Iterable[int]) -> dict[str, Json]:
    made = {}
    for method, each in calls.items():
        # What an operation says itself of a status stands.
        free = [status for status in listed if str(status) not in each["responses"]]
        made[method] = problems.failing(each, dialect, free)
    return made


_SCHEMES: Final[dict[str, Json]] = {
    "XApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "ApiKey": {"type": "apiKey", "in": "header", "name": "Api-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}
_HEADERS: Final[dict[str, Json]] = {
    "X-Request-Id": {
        "description": "What the log knows this request by.",
        "schema": text(),
    },
    "X-Execution-Id": {
        "description": "The execution, where its stream can be attached to again.",
        "schema": text(),
    },
    "Retry-After": {
        "description": "Seconds after which trying again may help.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {"schema": text()},
    "Allow": {"description": "The methods that the path takes.", "schema": text()},
    "Link": {
        "description": 'Where the list goes on: `</v1/executions?…>; rel="next"`.',
        "schema": text(),
    },
    "ETag": {"description": "For `If-None-Match`.", "schema": text()},
    "RateLimit-Policy": {
        "description": "The limits of the key that was used, where it has some: "
        '`"minute";q=600;w=60`.',
        "schema": text(),
    },
    "RateLimit": {
        "description": 'What is left of them: `"minute";r=12;t=30`, `t` in seconds.',
        "schema": text(),
    },
}
#: Parameters that every call takes.
_COMMON: Final[dict[str, Json]] = {
    "X-Request-Id": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "What to call this request: up to 128 letters, digits or `._:/+=@-`. It is "
        "returned, logged and passed upstream; anything else is replaced.",
        "schema": text(),
    },
    "traceparent": {
        "name": "traceparent",
        "in": "header",
        "description": "W3C Trace Context. What is not well-formed is ignored.",
        "schema": text(),
    },
}


def _components(shape: Shape) -> Json:
    name = text("The name of a pipeline.")
    example = "invoice"
    if not shape.keys and 0 < len(shape.names) <= _NAMES_MAX:
        name |= {"enum": list(shape.names)}
        example = shape.names[0]
    parameters: dict[str, Json] = {
        **_COMMON,
        "pipeline": {
            "name": "pipeline",
            "in": "path",
            "required": True,
            "schema": name,
            "example": example,
        },
        "sse": {
            "name": "sse",
            "in": "query",
            "description": "Whether the answer is a stream.",
            "schema": {"type": "boolean", "default": False},
        },
    }
    schemas = (
        pipelines.schemas(keeps=shape.keeps)
        | observations.SCHEMAS
        | events.SCHEMAS
        | problems.SCHEMAS
    )
    if shape.keeps:
        parameters |= executions.parameters() | hooks.parameters()
        schemas |= executions.SCHEMAS | hooks.SCHEMAS
    return {
        "schemas": schemas,
        "parameters": parameters,
        "headers": _HEADERS,
        "responses": problems.answers(),
        "securitySchemes": _SCHEMES,
    }
