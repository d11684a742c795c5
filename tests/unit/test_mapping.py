"""The default mappings of requests, with the engine and without."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import default_mapping
from gateway.dialects.events import responses_value
from gateway.mapping import cambrion_fields, pupau_fields, usual_message, usual_observation
from gateway.model import ActorResponse, Media, Request, request_view
from gateway.transform import Bounds, compile_expression

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
#: Numbers that every engine holds exactly.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=4)


def requests(text: st.SearchStrategy[str | None]) -> st.SearchStrategy[Request]:
    """Requests with anything that a mapping sees."""
    return st.builds(
        Request,
        pipeline=st.just("p"),
        request_id=st.just("r"),
        text=text,
        context=st.none() | TEXT,
        tag=st.none() | TEXT,
        media=st.just(()) | st.just((Media("media-1", b"x", "text/plain"),)),
        observation=st.none() | OBJECTS.map(msgspec.json.encode),
        parameters=OBJECTS,
    )


def mapped(name: str, request: Request) -> Any:
    """What the shipped expression makes of ``request``."""
    transform = compile_expression(default_mapping(name).text, bounds=Bounds())
    result = transform.evaluate(msgspec.json.encode(request_view(request)).decode())
    return msgspec.json.decode(result or "null")


def written(fields: dict[str, Any]) -> Any:
    """``fields`` as they go out."""
    return msgspec.json.decode(msgspec.json.encode(fields))


@given(requests(st.none() | TEXT))
def test_a_cambrion_body_is_the_same_with_and_without_the_engine(request: Request) -> None:
    assert written(cambrion_fields(request)) == mapped("request_to_cambrion", request)


@given(requests(TEXT))
def test_a_pupau_body_is_the_same_with_and_without_the_engine(request: Request) -> None:
    assert written(pupau_fields(request)) == mapped("request_to_pupau", request)


RESPONSES = st.lists(st.builds(ActorResponse, actor_id=TEXT, message=TEXT), max_size=3).map(tuple)


@given(RESPONSES, TEXT)
def test_an_observation_is_the_same_with_and_without_the_engine(
    responses: tuple[ActorResponse, ...], execution_id: str
) -> None:
    given = {"executionId": execution_id, "responses": responses_value(responses)}
    mapping = default_mapping("responses_to_observation").text
    result = compile_expression(mapping, bounds=Bounds()).evaluate(
        msgspec.json.encode(given).decode()
    )
    made = usual_observation(responses, execution_id)
    assert msgspec.json.decode(made) == msgspec.json.decode(result or "")


@given(OBJECTS.filter(bool))
def test_a_message_is_the_same_with_and_without_the_engine(view: dict[str, Any]) -> None:
    json = msgspec.json.encode(view)
    given = msgspec.json.encode({"observation": {"mediaContents": []}, "json": msgspec.Raw(json)})
    mapping = default_mapping("observation_to_message").text
    result = compile_expression(mapping, bounds=Bounds()).evaluate(given.decode())
    assert usual_message(json) is not None
    assert msgspec.json.decode(usual_message(json) or "") == msgspec.json.decode(result or "")


@pytest.mark.parametrize("view", [b"{}", b"[]", b'""', b"null", b"[1]", b'"x"', b"1"])
def test_of_a_view_that_is_no_object_the_engine_makes_the_message(view: bytes) -> None:
    assert usual_message(view) is None


@pytest.mark.parametrize("number", ["9007199254740993", "1e400", "0.1000000000000000055"])
def test_an_observation_is_passed_on_to_the_last_digit(number: str) -> None:
    observation = b'{"n":%b}' % number.encode()
    fields = cambrion_fields(Request("p", "r", observation=observation))
    assert msgspec.json.encode(fields) == b'{"observation":%b}' % observation
