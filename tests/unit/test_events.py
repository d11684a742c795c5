"""Streamed events as JSON, both ways."""

from __future__ import annotations

import json

import pytest

from gateway.dialects.events import event_json, parse_event, parse_responses
from gateway.model import (
    ActorError,
    ActorResponse,
    Delta,
    Event,
    Failed,
    Frames,
    LayerFinished,
    LayerStarted,
    ObservationReady,
    RawEvent,
)

EVENTS: list[tuple[Event, str]] = [
    (
        LayerStarted("0", "Executing layer 0...", execution_count=1),
        '{"type":"LAYER_MESSAGE","message":"Executing layer 0...","layerId":"0",'
        '"executionCount":1}',
    ),
    (
        LayerStarted("1", "next"),
        '{"type":"LAYER_MESSAGE","message":"next","layerId":"1"}',
    ),
    (
        Delta("actor-1", "Hel", "0"),
        '{"type":"STREAMING_RESPONSE","actorId":"actor-1","message":"Hel","layerId":"0"}',
    ),
    (
        Delta("actor-1", "lo", "0", finished=True, last_layer=True),
        '{"type":"STREAMING_RESPONSE","actorId":"actor-1","message":"lo","layerId":"0",'
        '"finished":true,"lastLayer":true}',
    ),
    (
        LayerFinished("0", (ActorResponse("actor-1", "Hello", info=("i",)),)),
        '{"type":"LAYER_RESPONSE","layerId":"0","responses":[{"actorId":"actor-1",'
        '"message":"Hello","errors":[],"info":["i"]}]}',
    ),
    (
        LayerFinished(
            "1",
            (ActorResponse("a", "", errors=(ActorError("Invalid PDF.", "InvalidPDF"),)),),
            last=True,
            execution_count=2,
        ),
        '{"type":"LAYER_RESPONSE","layerId":"1","responses":[{"actorId":"a","message":"",'
        '"errors":[{"message":"Invalid PDF.","name":"InvalidPDF"}],"info":[]}],"last":true,'
        '"executionCount":2}',
    ),
]


@pytest.mark.parametrize(("event", "text"), EVENTS)
def test_each_event_is_written_in_its_form(event: Event, text: str) -> None:
    assert event_json(event).decode() == text


@pytest.mark.parametrize(("event", "text"), EVENTS)
def test_each_event_is_read_back_and_keeps_its_text(event: Event, text: str) -> None:
    read = parse_event(text.encode())
    assert event_json(read) == text.encode()
    assert isinstance(read, LayerStarted | Delta | LayerFinished)
    assert read.raw == text.encode()
    for name in (n for n in event.__struct_fields__ if n != "raw"):
        assert getattr(read, name) == getattr(event, name)


def test_an_event_that_came_with_more_than_is_known_is_passed_on_whole() -> None:
    text = b'{"type":"STREAMING_RESPONSE","actorId":"a","message":"x","layerId":"0","extra":1}'
    assert event_json(parse_event(text)) == text


def test_an_event_of_an_unknown_type_is_passed_on() -> None:
    text = b'{"type":"TOOL_CALL","name":"search"}'
    assert parse_event(text) == RawEvent(text)
    assert event_json(RawEvent(text)) == text


def test_a_piece_may_end_with_half_of_a_character() -> None:
    half = b'{"type":"STREAMING_RESPONSE","actorId":"a","message":"\\ud83d","layerId":"0"}'
    event = parse_event(half)
    assert isinstance(event, Delta)
    assert event.message == "\ud83d"
    assert event_json(event) == half
    with pytest.raises(ValueError, match="line 1"):
        parse_event(half[:-1])


def test_a_failure_is_the_last_layer_response_with_the_texts_so_far() -> None:
    error = ActorError("gone", "UpstreamFailed")
    failed = Failed("0", (ActorResponse("chat", "Hel", (error,)), ActorResponse("ocr", "12.50")))
    assert json.loads(event_json(failed)) == {
        "type": "LAYER_RESPONSE",
        "layerId": "0",
        "responses": [
            {
                "actorId": "chat",
                "message": "Hel",
                "errors": [{"message": "gone", "name": "UpstreamFailed"}],
                "info": [],
            },
            {"actorId": "ocr", "message": "12.50", "errors": [], "info": []},
        ],
        "last": True,
    }


def test_an_observation_is_written_without_being_read() -> None:
    assert (
        event_json(ObservationReady(b'{"a": 1}', "e-1"))
        == b'{"type":"OBSERVATION","executionId":"e-1","observation":{"a": 1}}'
    )
    assert event_json(ObservationReady(b"[]")) == b'{"type":"OBSERVATION","observation":[]}'


def test_frames_have_no_json_of_their_own() -> None:
    with pytest.raises(TypeError):
        event_json(Frames(b"data: x\n\n", 1))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"hello",
        b"[]",
        b'{"message":"x"}',
        b'{"type":5}',
        b'{"type":"STREAMING_RESPONSE","message":"x"}',
        b'{"type":"LAYER_RESPONSE","responses":[{"message":"x"}]}',
        b'{"type":"LAYER_RESPONSE","more":' + b"[" * 100_000,
    ],
)
def test_what_is_no_event_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_event(text)


def test_missing_fields_stay_empty_and_numbers_become_layer_ids() -> None:
    assert parse_event(b'{"type":"LAYER_MESSAGE","layerId":3}') == LayerStarted(
        "3", "", raw=b'{"type":"LAYER_MESSAGE","layerId":3}'
    )
    piece = parse_event(b'{"type":"STREAMING_RESPONSE","actorId":"a"}')
    assert isinstance(piece, Delta)
    assert (piece.layer_id, piece.message) == ("", "")


def test_a_field_that_is_null_is_absent() -> None:
    delta = parse_event(
        b'{"type":"STREAMING_RESPONSE","actorId":"a","message":"x","layerId":"0","finished":null,'
        b'"lastLayer":null,"responses":null}'
    )
    assert isinstance(delta, Delta)
    assert (delta.finished, delta.last_layer) == (False, False)
    done = parse_event(
        b'{"type":"LAYER_RESPONSE","layerId":"0","last":null,"executionCount":null,"responses":'
        b'[{"actorId":"a","message":"x","errors":null,"info":null}]}'
    )
    assert isinstance(done, LayerFinished)
    assert (done.last, done.responses) == (False, (ActorResponse("a", "x"),))
    nothing = parse_event(b'{"type":"LAYER_RESPONSE","layerId":"0","responses":null}')
    assert isinstance(nothing, LayerFinished)
    assert nothing.responses == ()


def test_a_plain_answer_is_a_list_of_responses() -> None:
    text = (
        b'[{"actorId":"a","message":"Hi","info":[],"errors":["odd",{"message":"m"}]},'
        b'{"actorId":"b","message":null}]'
    )
    assert parse_responses(text) == (
        ActorResponse("a", "Hi", errors=(ActorError("odd", "Error"), ActorError("m", "Error"))),
        ActorResponse("b", ""),
    )


@pytest.mark.parametrize(
    "text", [b"{}", b"[1]", b'[{"message":"x"}]', b'[{"actorId":"a","info":' + b"[" * 100_000]
)
def test_what_is_no_list_of_responses_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_responses(text)
