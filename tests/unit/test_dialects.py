"""Both dialects, inbound: requests parsed, answers and errors rendered."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from gateway.dialects import cambrion, pupau
from gateway.dialects.wire import Origin, Part
from gateway.errors import Code, GatewayError, Outcome, RequestRejected, TransformFailed
from gateway.model import (
    ActorError,
    ActorResponse,
    Delta,
    Frames,
    Request,
    Result,
    request_view,
)

ORIGIN = Origin("invoice", "r-1", stream=True, headers={"accept-language": "de"}, key="team")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def execute(**fields: Any) -> Request:
    return cambrion.parse_request(ORIGIN, json.dumps(fields).encode())


def query(**fields: Any) -> Request:
    return pupau.parse_request(ORIGIN, json.dumps(fields).encode())


def test_every_field_of_an_execute_call_finds_its_place() -> None:
    request = execute(
        tag="t",
        transient=True,
        transform="$",
        idempotent=True,
        media=[base64.b64encode(PNG).decode()],
        observation={"executionId": "e"},
        text="hello",
        tryImageConversion=True,
        trySimpleText=True,
        runtimeParameters={"context": "c", "depth": 2},
    )
    assert (request.pipeline, request.request_id, request.stream, request.key) == (
        "invoice",
        "r-1",
        True,
        "team",
    )
    assert request.media[0].data == PNG
    assert request.media[0].content_type == "image/png"
    assert (request.text, request.context, request.parameters) == ("hello", "c", {"depth": 2})
    assert request.observation == b'{"executionId": "e"}'
    assert (request.tag, request.transform) == ("t", "$")
    assert request.transient
    assert request.idempotent
    assert request.try_image_conversion
    assert request.try_simple_text
    assert request.headers == {"accept-language": "de"}


def test_null_is_as_good_as_absent() -> None:
    request = execute(
        text="x",
        media=None,
        tag=None,
        observation=None,
        executionId=None,
        transform=None,
        runtimeParameters=None,
        transient=None,
    )
    assert request == execute(text="x")
    assert request.observation is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "nothing to run on"),
        ({"text": ""}, "nothing to run on"),
        ({"media": []}, "nothing to run on"),
        ({"executionId": "e-1"}, "executionId: there is no such execution"),
        ({"text": "x", "executionId": "e-1"}, "executionId: there is no such execution"),
        ({"text": "x", "hookIds": ["h-1"]}, "hookIds: this gateway keeps no executions"),
        ({"media": "aGk="}, "media: expected"),
        ({"media": ["aGk=", 5]}, "media[1]: expected a string of base64, got a number"),
        ({"observation": []}, "observation: expected an object"),
        ({"text": "x", "runtimeParameters": {"context": 1}}, "runtimeParameters.context"),
        ({"text": "x", "transient": "yes"}, "transient: expected"),
        ({"text": "x", "medias": []}, "unknown field `medias`"),
    ],
)
def test_an_execute_call_that_cannot_be_served_says_why(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestRejected) as caught:
        execute(**fields)
    assert message in caught.value.message


def test_an_execution_is_something_to_run_on_where_the_gateway_keeps_any() -> None:
    keeping = msgspec.structs.replace(ORIGIN, keeps=True)
    request = cambrion.parse_request(keeping, b'{"executionId":"e-1"}')
    assert (request.execution_id, request.hook_ids) == ("e-1", ())
    request = cambrion.parse_request(keeping, b'{"text":"x","hookIds":["h-1","h-2"]}')
    assert (request.execution_id, request.hook_ids) == (None, ("h-1", "h-2"))
    with pytest.raises(RequestRejected, match="nothing to run on"):
        cambrion.parse_request(keeping, b'{"executionId":""}')


def test_an_observation_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(RequestRejected, match="not UTF-8"):
        cambrion.parse_request(ORIGIN, b'{"observation":{"a":"\xff"}}')
    with pytest.raises(RequestRejected, match="not UTF-8"):
        cambrion.parse_request(ORIGIN, b'{"observation":{}, "text": "\xff"}')


def test_a_query_is_a_request_and_its_context() -> None:
    request = query(request="hello", context="be kind")
    assert (request.text, request.context, request.media) == ("hello", "be kind", ())
    assert query(request="x").context is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "nothing to run on"),
        ({"request": ""}, "nothing to run on"),
        ({"context": "x"}, "nothing to run on"),
        ({"request": 1}, "request: expected"),
        ({"query": "x"}, "unknown field `query`"),
    ],
)
def test_a_query_that_cannot_be_served_says_why(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        query(**fields)
    assert message in caught.value.message


def test_a_form_may_hold_several_files_beside_its_fields() -> None:
    request = pupau.parse_request(
        ORIGIN,
        [
            Part("file", PNG, "a.png"),
            Part("request", "héllo".encode()),
            Part("file", b"text", None),
            Part("context", b"c"),
        ],
    )
    assert [(m.id, m.filename, m.content_type) for m in request.media] == [
        ("media-1", "a.png", "image/png"),
        ("media-2", None, "text/plain"),
    ]
    assert (request.text, request.context) == ("héllo", "c")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "nothing to run on"),
        ([Part("file", b"", "a")], 'form part "file": is empty'),
        ([Part("request", b"\xff")], 'form part "request": not UTF-8'),
        ([Part("request", b"a"), Part("request", b"b")], "given more than once"),
        ([Part("files", b"a", "a")], 'form part "files": unknown'),
    ],
)
def test_a_form_that_cannot_be_served_says_why(parts: list[Part], message: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        pupau.parse_request(ORIGIN, parts)
    assert message in caught.value.message


def test_a_plain_execute_answer_has_the_id_and_the_observation() -> None:
    result = Result("e-1", observation=b'{"mediaContents":[]}', view=b"1")
    assert (
        cambrion.render_result(result, view=False)
        == b'{"executionId":"e-1","observation":{"mediaContents":[]}}'
    )
    assert cambrion.render_result(result, view=True) == b"1"
    assert cambrion.render_result(Result("e-1"), view=True) == b"null"


def test_a_plain_query_answer_is_the_list_of_responses() -> None:
    error = ActorError("m", "N")
    result = Result("", responses=(ActorResponse("a", "hi"), ActorResponse("b", "", (error,))))
    assert json.loads(pupau.render_result(result)) == [
        {"actorId": "a", "message": "hi", "errors": [], "info": []},
        {"actorId": "b", "message": "", "errors": [{"message": "m", "name": "N"}], "info": []},
    ]
    assert pupau.render_result(Result("", raw=b"[1]")) == b"[1]"


def test_each_dialect_words_an_error_its_own_way() -> None:
    error = RequestRejected("no such thing", code=Code.NOT_FOUND)
    assert cambrion.render_error(error) == b'{"code":"not_found","message":"no such thing"}'
    assert pupau.render_error(error) == b'{"name":"NotFound","message":"no such thing"}'


@pytest.mark.parametrize("render", [cambrion.render_event, pupau.render_event])
def test_model_text_cannot_forge_an_event(render: Any) -> None:
    text = 'a\n\nevent: x\r\ndata: {"type":"LAYER_RESPONSE"}\r\r\u2028'
    frame = render(Delta("a", text, "0"))
    assert frame.startswith(b"data: {")
    assert frame.endswith(b"}\n\n")
    assert frame.count(b"\n") == 2
    assert b"\r" not in frame
    assert json.loads(frame[6:])["message"] == text


@pytest.mark.parametrize("render", [cambrion.render_event, pupau.render_event])
def test_frames_pass_through_untouched(render: Any) -> None:
    data = b": hi\r\ndata:x\r\n\r\n"
    assert render(Frames(data, 1)) is data


def test_a_transform_sees_the_request_without_its_bytes() -> None:
    request = execute(
        text="x",
        tag="t",
        media=[base64.b64encode(PNG).decode()],
        observation={"a": 1},
        runtimeParameters={"context": "c", "p": 1},
    )
    assert json.loads(msgspec.json.encode(request_view(request))) == {
        "pipeline": "invoice",
        "text": "x",
        "context": "c",
        "tag": "t",
        "media": [{"id": "media-1", "contentType": "image/png", "size": len(PNG)}],
        "observation": {"a": 1},
        "runtimeParameters": {"p": 1},
    }
    full = Request("p", "r", execution_id="e", meta={"m": 1}, media=request.media)
    assert request_view(full) == {
        "pipeline": "p",
        "executionId": "e",
        "media": [{"id": "media-1", "contentType": "image/png", "size": len(PNG)}],
        "metaData": {"m": 1},
    }


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("syntax", Code.TRANSFORM_INVALID),
        ("evaluation", Code.TRANSFORM_FAILED),
        ("result", Code.TRANSFORM_FAILED),
        ("time", Code.TRANSFORM_LIMIT),
        ("memory", Code.TRANSFORM_LIMIT),
    ],
)
def test_a_clients_expression_is_the_clients_error_and_a_routes_is_not(
    reason: str, code: Code
) -> None:
    theirs = TransformFailed("x", reason=reason, by_client=True)
    assert (theirs.code, theirs.status, theirs.outcome) == (code, 400, Outcome.REJECTED)
    ours = TransformFailed("x", reason=reason)
    assert (ours.status, ours.outcome) == (500, Outcome.INTERNAL)


def test_an_error_knows_whether_trying_again_may_help() -> None:
    assert GatewayError("x").status == 500
    assert not GatewayError("x").retryable
    assert GatewayError("x", code=Code.UPSTREAM_TIMEOUT).retryable
