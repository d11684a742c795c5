"""The small words that the document is put together from.

Owns: references, records, contents, parameters, calls.
Does not know: what is described with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

JSON: Final = "application/json"
TEXT: Final = "text/plain"
EVENTS: Final = "text/event-stream"
ANYTHING: Final[Json] = {}


def ref(name: str, kind: str = "schemas") -> Json:
    """A reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def text(description: str = "", **more: Any) -> Json:
    """A string."""
    return _described("string", description, more)


def optional_text(description: str = "", **more: Any) -> Json:
    """A string, or null, which is the same as nothing."""
    return _described(["string", "null"], description, more)


def flag(description: str) -> Json:
    """True or false, or null, which is false."""
    return _described(["boolean", "null"], description, {"default": False})


def many(items: Json, description: str = "", **more: Any) -> Json:
    """A list."""
    return _described("array", description, {"items": items, **more})


def record(
    properties: Mapping[str, Json],
    *required: str,
    description: str = "",
    closed: bool = False,
    **more: Any,
) -> Json:
    """An object. ``closed``: a field that is not listed is an error."""
    made = _described("object", description, {"properties": dict(properties), **more})
    if required:
        made["required"] = list(required)
    if closed:
        made["additionalProperties"] = False
    return made


def _described(kind: str | Sequence[str], description: str, more: Mapping[str, Any]) -> Json:
    made: Json = {"type": kind}
    if description:
        made["description"] = description
    return made | dict(more)


def content(schema: Json, examples: Mapping[str, Any] | None = None, kind: str = JSON) -> Json:
    """What a body of one media type holds; ``examples`` by their names."""
    media: Json = {"schema": schema}
    if examples:
        media["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {kind: media}


def answer(
    description: str,
    body: Json | None = None,
    *,
    links: Mapping[str, Json] | None = None,
    headers: Mapping[str, Json] | None = None,
) -> Json:
    """An answer that is no error; ``body``: of ``content``."""
    made: Json = {
        "description": description,
        "headers": {"X-Request-Id": ref("X-Request-Id", "headers")} | dict(headers or {}),
    }
    if body is not None:
        made["content"] = body
    if links:
        made["links"] = dict(links)
    return made


def link(operation: str, body_field: str, parameter: str = "", **more: str) -> Json:
    """Another call that a field of this answer leads to."""
    parameters = {f"path.{parameter or body_field}": f"$response.body#/{body_field}"} | more
    return {"operationId": operation, "parameters": parameters}


def stream(events: str, description: str, examples: Mapping[str, str]) -> Json:
    """A stream of events. Its schema is that of one of them, the JSON of its data the component
    ``events``."""
    event = record(
        {
            "id": text("Where it stands; to be sent as Last-Event-ID. Not in every stream."),
            "data": text(
                contentMediaType=JSON,
                contentSchema=ref(events),
            ),
        },
        "data",
        description=description,
    )
    return content(event, examples, EVENTS)


def call(
    name: str,
    tag: str,
    summary: str,
    answers: Mapping[int, Json],
    *,
    description: str = "",
    body: Json | None = None,
    body_needed: bool = True,
    parameters: Iterable[Json] = (),
) -> Json:
    """One operation; ``name`` is its ID. Errors are added to its ``answers`` elsewhere."""
    made: Json = {"operationId": name, "tags": [tag], "summary": summary}
    if description:
        made["description"] = description
    if listed := list(parameters):
        made["parameters"] = listed
    if body is not None:
        made["requestBody"] = {"required": body_needed, "content": body}
    made["responses"] = {str(status): each for status, each in answers.items()}
    return made
