"""What /openapi.json says, for tests that hold answers against it.

Owns: finding an operation and its parts in a document, judging an answer by them.
Does not know: what is sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jsonschema

from gateway.sse import Decoder

METHODS = ("get", "put", "post", "delete")


class Operation(NamedTuple):
    """One call of a document."""

    path: str
    method: str
    described: dict[str, Any]


class Contract:
    """A document, decoded."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def operations(self) -> Iterator[Operation]:
        """All calls, in the document's order."""
        for path, there in self.document["paths"].items():
            for method in METHODS:
                if method in there:
                    yield Operation(path, method, there[method])

    def named(self, operation_id: str) -> Operation:
        """The call of this ID."""
        (found,) = (
            each for each in self.operations() if each.described["operationId"] == operation_id
        )
        return found

    def resolved(self, thing: Any) -> dict[str, Any]:
        """``thing``, or what it refers to."""
        while "$ref" in thing:
            found: Any = self.document
            for name in thing["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            thing = found
        return dict(thing)

    def parameters(self, operation: Operation) -> list[dict[str, Any]]:
        """The parameters of a call, those of its path with them."""
        common = self.document["paths"][operation.path]["parameters"]
        own = operation.described.get("parameters", [])
        return [self.resolved(each) for each in (*common, *own)]

    def check(self, schema: Mapping[str, Any], value: Any) -> None:
        """Raises jsonschema.ValidationError where ``value`` is not as ``schema`` has it."""
        whole = {**schema, "components": self.document["components"]}
        jsonschema.Draft202012Validator(whole).validate(value)

    def judge(
        self, operation: Operation, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Hold an answer against what the document says of this call."""
        given = operation.described["responses"]
        assert str(status) in given, (operation.path, status, body)
        answer = self.resolved(given[str(status)])
        if status in (204, 304):
            assert body == b""
            return
        content = answer["content"]
        kind = headers["Content-Type"].partition(";")[0]
        media = content.get(kind) or content.get("*/*")
        assert media is not None, (operation.path, status, kind)
        if kind == "text/event-stream":
            for frame in Decoder(1 << 26).feed(body):
                self.check_event(media["schema"], frame.data.decode())
        elif kind == "application/json":
            self.check(media.get("schema", {}), json.loads(body))

    def check_event(self, schema: Mapping[str, Any], data: str) -> None:
        """Hold the data of one event against the schema of a stream's."""
        self.check(schema, {"data": data})
        self.check(schema["properties"]["data"]["contentSchema"], json.loads(data))
