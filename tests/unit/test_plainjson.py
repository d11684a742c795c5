"""Which observations become plain JSON without the engine, and which are left to it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.config import default_mapping
from gateway.plainjson import plain_json
from gateway.transform import Bounds, compile_expression

BLOCK = {"text": "1,50 EUR"}


def observed(*entities: Any, **document: Any) -> bytes:
    page = {"page": 1, "document": {"id": "1", "entities": entities, **document}}
    return msgspec.json.encode({"mediaContents": [{"id": "m", "documentPages": [page]}]})


def by_the_engine(observation: bytes) -> Any:
    expression = default_mapping("observation_to_json").text
    result = compile_expression(expression, bounds=Bounds()).evaluate(observation.decode())
    return msgspec.json.decode(result or "{}")


PLAIN = {
    "nothing": b"{}",
    "no contents": b'{"mediaContents":null,"documents":[{"any":1}]}',
    "no pages": b'{"mediaContents":[{"id":"m"}]}',
    "no document": b'{"mediaContents":[{"documentPages":[{"page":1}]}]}',
    "no entities": b'{"mediaContents":[{"documentPages":[{"document":{"entities":null}}]}]}',
    "a text": observed({"label": "total", "block": BLOCK}),
    "without a label, or an empty one": observed({"block": BLOCK}, {"label": "", "block": BLOCK}),
    "a number": observed({"label": "a", "type": "NUMBER", "data": {"numberValue": 12.5}}),
    "an integer": observed({"label": "a", "type": "NUMBER", "data": {"numberValue": 12}}),
    "zero, and an empty text": observed(
        {"label": "a", "data": {"numberValue": 0}}, {"label": "b", "block": {"text": ""}}
    ),
    "linked data before parsed": observed(
        {"label": "a", "type": "STRING", "data": {"textValue": "parsed", "textData": "linked"}}
    ),
    "its type's data first": observed(
        {"label": "a", "type": "UNIT", "data": {"dateData": "today", "unitValue": "kg"}}
    ),
    "any data where its type has none": observed(
        {"label": "a", "type": "UNIT", "data": {"textValue": "x", "numberValue": 2}}
    ),
    "a type that nobody knows": observed({"label": "a", "type": "?", "data": {"unitData": "m"}}),
    "data without any": observed({"label": "a", "data": {"other": 1}, "block": BLOCK}),
    "the same name twice, and three times": observed(
        *({"label": name, "block": {"text": str(n)}} for n, name in enumerate("abaabc"))
    ),
    "no tables": observed({"label": "a", "block": BLOCK}, tables=None, keyValueSet=None),
}


@pytest.mark.parametrize("observation", PLAIN.values(), ids=PLAIN)
def test_a_plain_observation_needs_no_engine(observation: bytes) -> None:
    made = plain_json(observation)
    assert made is not None
    assert msgspec.json.decode(made) == by_the_engine(observation)
    assert list(msgspec.json.decode(made)) == list(by_the_engine(observation))


@pytest.mark.parametrize(
    "observation",
    [
        observed({"label": "a", "block": BLOCK}, tables=[]),
        observed({"label": "a", "block": BLOCK}, keyValueSet={}),
        observed({"label": "a"}),
        observed({"label": "a", "block": {"text": None}}),
        observed({"label": "a", "data": {"quantityValue": {"value": 1, "unit": "kg"}}}),
        observed({"label": "a", "data": {"numberValue": [1]}}),
        observed({"label": 5, "block": BLOCK}),
        observed({"label": "a", "data": {"numberValue": 2**53 + 1}}),
        observed({"label": "a", "block": {"text": "x" * 70_000}}),
        b'{"mediaContents":{"documentPages":[]}}',
        b'{"mediaContents":[{"documentPages":[{"document":{"entities":[{"label":"\xff"}]}}]}]}',
        b"[" * 100_000,
    ],
    ids=range(12),
)
def test_what_is_more_than_plain_is_left_to_the_engine(observation: bytes) -> None:
    assert plain_json(observation) is None
