"""The JSON Schema of the configuration, which editors read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, Field

from gateway import shape as shape_module
from gateway.config import Config
from gateway.shape import json_schema, rows, shape_of

ROOT = Path(shape_module.__file__).parent.parent


class Small(BaseModel):
    title: Annotated[int, Field(ge=1)]
    least: float = Field(default=1.0, ge=0)
    any_number: int = 3
    unions: dict[str, bool | None] = Field(default_factory=dict)


def test_the_schema_that_lies_beside_the_configuration_is_current() -> None:
    path = ROOT / "config" / "gateway.schema.json"
    written = msgspec.json.decode(path.read_bytes())
    assert written == msgspec.json.decode(msgspec.json.encode(json_schema(Config))), (
        "write it anew: pipeline-gateway schema > config/gateway.schema.json"
    )


def test_a_number_in_the_schema_may_be_a_variable_and_names_are_not_keywords() -> None:
    schema = json_schema(Small)
    variable = {"type": "string", "pattern": r"\$\{.+\}"}
    assert schema["properties"]["title"] == {
        "anyOf": [{"minimum": 1, "type": "integer"}, variable],
    }
    assert schema["properties"]["unions"]["additionalProperties"]["anyOf"] == [
        {"anyOf": [{"type": "boolean"}, variable]},
        {"type": "null"},
    ]


def test_the_schema_of_an_expression_is_text_or_a_file() -> None:
    definitions: dict[str, Any] = json_schema(Config)["$defs"]
    expected = {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {"file": {"type": "string"}},
                "required": ["file"],
                "additionalProperties": False,
            },
        ]
    }
    assert definitions["Expression"] == expected
    api_key = definitions["PupauUpstreamConfig"]["properties"]["api_key"]
    assert expected["anyOf"][1] in api_key["anyOf"]
    assert "written" not in str(definitions)


def test_a_row_names_the_range_as_far_as_there_is_one() -> None:
    types = {row.path: row.type for row in rows(shape_of(Small))}
    assert types == {
        "title": "a whole number, at least 1",
        "least": "a number, at least 0",
        "any_number": "a whole number",
        "unions": "names, each true or false",
    }
