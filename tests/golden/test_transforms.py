"""Every file in transforms/: golden inputs and outputs, on both engines, and any observation.

``transforms/NAME/CASE.in.json`` beside this file is the input, ``CASE.out.json`` what the default
engine makes of it, to the byte; empty where the transform yields nothing.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import TransformFailed
from gateway.plainjson import plain_json
from gateway.transform import Bounds, Engine, Transform, compile_expression

TRANSFORMS = Path(__file__).parents[2] / "transforms"
GOLDEN = Path(__file__).parent / "transforms"
CASES = sorted(GOLDEN.glob("*/*.in.json"))
NAMES = sorted(path.stem for path in TRANSFORMS.glob("*.jsonata"))


@cache
def transform(name: str, engine: Engine = "jsonatapy") -> Transform:
    text = (TRANSFORMS / f"{name}.jsonata").read_text()
    # The second engine is some fifty times slower, and this machine may be busy.
    return compile_expression(text, bounds=Bounds(time_s=60), engine=engine)


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    # The second engine raises Python's recursion limit, which Hypothesis watches over.
    for name in NAMES:
        transform(name, "jsonata-python")


def run(name: str, value: Any, engine: Engine = "jsonatapy") -> Any:
    """The result's value; a transform that yields nothing fails the test that uses this."""
    result = transform(name, engine).evaluate(msgspec.json.encode(value).decode())
    assert result is not None
    return msgspec.json.decode(result)


def test_every_transform_has_golden_cases_and_says_what_goes_in_and_what_comes_out() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == NAMES
    for name in NAMES:
        assert len(list((GOLDEN / name).glob("*.in.json"))) >= 4, name
        header = (TRANSFORMS / f"{name}.jsonata").read_text().partition("*/")[0]
        assert header.startswith("/*\n"), name
        assert "\n  Input:  " in header, name
        assert "\n  Output: " in header, name


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.name[:-8]}")
def test_a_transform_gives_the_expected_output_on_both_engines(path: Path) -> None:
    name, given_text = path.parent.name, path.read_text()
    golden = path.with_name(path.name.replace(".in.", ".out.")).read_text()
    result = transform(name).evaluate(given_text)
    assert ("" if result is None else result + "\n") == golden
    other = transform(name, "jsonata-python").evaluate(given_text)
    if other is None or result is None:
        assert other is result
    else:
        assert msgspec.json.decode(other) == msgspec.json.decode(result)


# Any observation, against the same rules written down once more in Python


def _without_nulls(value: Any) -> Any:
    return {name: item for name, item in value.items() if item is not None}


def _value(entity: Any) -> Any:
    data = _without_nulls(entity.get("data") or {})
    kinds = {
        "STRING": "text",
        "NUMBER": "number",
        "PERCENTAGE": "number",
        "QUANTITY": "quantity",
        "UNIT": "unit",
        "DATE": "date",
    }
    kind = kinds.get(entity.get("type"), "")
    every = ("date", "number", "quantity", "unit", "text")
    names = [
        kind + "Data",
        kind + "Value",
        *(k + "Data" for k in every),
        *(k + "Value" for k in every),
    ]
    for name in names:
        if name in data:
            return data[name]
    return (entity.get("block") or {}).get("text")


def _object(named: list[tuple[Any, Any]]) -> dict[str, Any]:
    values: dict[str, list[Any]] = {}
    for name, value in named:
        if name and value is not None:
            values.setdefault(name, []).append(value)
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _pairs(key_value_set: Any) -> list[tuple[Any, Any]]:
    named = []
    for pair in (key_value_set or {}).get("pairs", []):
        key = pair["key"]
        value: Any = None
        if pair.get("entityValue") is not None:
            value = _value(pair["entityValue"])
        elif "keyValueSetValue" in pair:
            value = _object(_pairs(pair["keyValueSetValue"]))
        elif "tableValue" in pair:
            value = _rows(pair["tableValue"])
        named.append((key.get("label") or (key.get("block") or {}).get("text"), value))
    return named


def _rows(table: Any) -> list[Any]:
    return [_object(_pairs(row)) for row in table.get("rows", [])]


def _as_json(observation: Any) -> dict[str, Any]:
    named: list[tuple[Any, Any]] = []
    for content in observation.get("mediaContents", []):
        for page in content.get("documentPages", []):
            document = page["document"]
            named += [(one.get("label"), _value(one)) for one in document.get("entities", [])]
            named += _pairs(document.get("keyValueSet"))
            named += [
                (one.get("tag") or "tables", _rows(one)) for one in document.get("tables", [])
            ]
    return _object(named)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


names = st.none() | st.sampled_from(["", "a", "b", "tables", "Ü \"'"])
texts = st.sampled_from(["", "0", "x", "two words", "💡"])
numbers = st.none() | st.integers(-3, 10**9) | st.sampled_from([0.0, -1.25, 1e-9, 0.1])
blocks = st.none() | optional(text=st.none() | texts)
entities = optional(
    label=names,
    block=blocks,
    type=st.sampled_from(["STRING", "NUMBER", "PERCENTAGE", "QUANTITY", "UNIT", "DATE", "NEW"]),
    data=st.none()
    | optional(
        textData=st.none() | texts,
        numberData=numbers,
        textValue=st.none() | texts,
        numberValue=numbers,
        quantityValue=numbers,
        unitValue=st.none() | texts,
        dateValue=st.none() | texts,
        dateData=st.none() | texts,
    ),
)


def _sets(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    rows = st.lists(inner, max_size=2)
    value = st.one_of(
        st.just({}),
        st.fixed_dictionaries({"entityValue": st.none() | entities}),
        st.fixed_dictionaries({"keyValueSetValue": inner}),
        st.fixed_dictionaries({"tableValue": optional(rows=rows)}),
    )
    pair = st.builds(lambda key, value: {"key": key, **value}, entities, value)
    return optional(pairs=st.lists(pair, max_size=3))


sets: st.SearchStrategy[Any] = st.recursive(st.just({}), _sets, max_leaves=4)
documents = optional(
    entities=st.lists(entities, max_size=4),
    keyValueSet=st.none() | sets,
    tables=st.lists(optional(tag=names, rows=st.lists(sets, max_size=2)), max_size=3),
)
contents = optional(
    documentPages=st.lists(st.builds(lambda one: {"document": one}, documents), max_size=2)
)
observations = optional(mediaContents=st.lists(contents, max_size=2))


@given(observations)
@settings(max_examples=300)
def test_what_is_made_of_a_plain_observation_without_the_engine_is_the_same(
    observation: Any,
) -> None:
    made = plain_json(msgspec.json.encode(observation))
    assert made is None or msgspec.json.decode(made) == run("observation_to_json", observation)


@given(observations)
@settings(max_examples=300)
def test_any_observation_becomes_the_json_that_the_rules_say(observation: Any) -> None:
    assert run("observation_to_json", observation) == _as_json(observation)


@given(observations)
@settings(max_examples=60)
def test_both_engines_make_the_same_json_and_message_of_any_observation(observation: Any) -> None:
    result = run("observation_to_json", observation)
    assert run("observation_to_json", observation, "jsonata-python") == result
    for value in ({"observation": observation, "json": result}, {"observation": observation}):
        message = run("observation_to_message", value)
        assert run("observation_to_message", value, "jsonata-python") == message


shares = st.integers(0, 100).map(lambda share: share / 100)
boxes = st.builds(
    lambda left, top: {"left": left, "top": top, "width": 0.1, "height": 0.02}, shares, shares
)


@given(st.lists(boxes, max_size=12))
@settings(max_examples=100)
def test_a_message_in_reading_order_has_every_text_once_and_never_goes_up_the_page(
    places: list[Any],
) -> None:
    page = [
        {"block": {"text": f"{at}", "geometry": {"boundingBox": box}}}
        for at, box in enumerate(places)
    ]
    observation = {"mediaContents": [{"documentPages": [{"document": {"entities": page}}]}]}
    message = run("observation_to_message", {"observation": observation, "json": {}})
    order = [int(line) for line in message.split("\n")] if message else []
    assert sorted(order) == list(range(len(places)))
    for above, below in itertools.pairwise(order):
        one, other = places[above], places[below]
        assert other["top"] > one["top"] - 0.02
        if one["top"] == other["top"]:
            assert one["left"] <= other["left"]


@given(st.lists(st.tuples(texts, texts), max_size=4))
@settings(max_examples=50)
def test_what_actors_said_is_found_again_in_the_observation(said: list[tuple[str, str]]) -> None:
    responses = [{"actorId": f"actor {name}", "message": message} for name, message in said]
    observation = run("responses_to_observation", {"executionId": "e", "responses": responses})
    expected = _object([(one["actorId"], one["message"]) for one in responses])
    assert run("observation_to_json", observation) == expected
    assert [one["rawText"] for one in observation["mediaContents"]] == [text for _, text in said]


def test_an_observation_that_stands_in_for_a_text_is_the_same_on_both_engines() -> None:
    view = {"pipeline": "p", "media": [], "observation": {"a": ["ü", 0.1, 1, True, None, {}]}}
    for body in (run("request_to_pupau", view), run("request_to_pupau", view, "jsonata-python")):
        assert msgspec.json.decode(body["request"]) == view["observation"]


def test_sets_nest_forty_deep_and_deeper_ones_are_an_error() -> None:
    def nested(depth: int) -> Any:
        value: Any = {"pairs": []}
        for _ in range(depth):
            value = {"pairs": [{"key": {"label": "k"}, "keyValueSetValue": value}]}
        return {"mediaContents": [{"documentPages": [{"document": {"keyValueSet": value}}]}]}

    expected: Any = {}
    for _ in range(40):
        expected = {"k": expected}
    assert run("observation_to_json", nested(40)) == expected
    with pytest.raises(TransformFailed) as caught:
        run("observation_to_json", nested(200))
    assert caught.value.reason == "depth"
