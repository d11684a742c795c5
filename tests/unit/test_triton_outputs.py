"""From a model's output tensors to events."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import Code, TransformFailed, UpstreamFailed
from gateway.model import Delta, Event, ObservationReady, Request
from gateway.transform import Bounds, compile_expression
from gateway.upstreams.base import Call
from gateway.upstreams.triton_codec import encode
from gateway.upstreams.triton_outputs import Pieces, whole_answer
from gateway.upstreams.triton_wire import WireTensor

FIRST = '{"mediaContents":[{"id":"a","mediaId":"a"}]}'
SECOND = '{"mediaContents":[{"id":"b","mediaId":"b"}]}'
BOTH = b'{"mediaContents":[{"id":"a","mediaId":"a"},{"id":"b","mediaId":"b"}]}'


def call(output: str | None = None, *, last_layer: bool = True) -> Call:
    return Call(
        request=Request(pipeline="invoice", request_id="r"),
        pipeline="reader",
        actor="ocr",
        layer_id="1",
        last_layer=last_layer,
        output=None if output is None else compile_expression(output, bounds=Bounds()),
        bindings={"pipeline": "invoice"},
    )


def tensor(value: Any, datatype: str = "BYTES", name: str = "OUT") -> WireTensor:
    encoded = encode(name, datatype, [-1], value)
    return WireTensor(name, datatype, encoded.shape, encoded.data)


def said(text: str, *, last_layer: bool = True) -> Delta:
    return Delta("ocr", text, "1", finished=True, last_layer=last_layer)


def piece(text: str) -> Delta:
    return Delta("ocr", text, "1", last_layer=True)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ([tensor("Hello")], said("Hello")),
        ([tensor("")], said("")),
        ([tensor(FIRST)], ObservationReady(FIRST.encode())),
        ([tensor([FIRST, SECOND])], ObservationReady(BOTH)),
        ([tensor(["one", "two"])], said('{"OUT":["one","two"]}')),
        ([tensor([FIRST, "two"])], said('{"OUT":["{\\"mediaContents\\":[{\\"id\\":\\"a\\",'
                                        '\\"mediaId\\":\\"a\\"}]}","two"]}')),
        ([tensor([])], said('{"OUT":[]}')),
        ([tensor(b"\xff")], said('{"OUT":[{"base64":"/w=="}]}')),
        ([tensor([1, 2], "INT64")], said('{"OUT":[1,2]}')),
        ([tensor([0.5, "NaN"], "FP32")], said('{"OUT":[0.5,"NaN"]}')),
        ([tensor("yes", name="A"), tensor(True, "BOOL", "B")], said('{"A":["yes"],"B":[true]}')),
        ([], said("{}")),
    ],
)  # fmt: skip
def test_an_answer_is_a_text_an_observation_or_json(
    tensors: list[WireTensor], expected: Event
) -> None:
    assert whole_answer(call(), tensors, "tri") == expected


def test_a_layer_that_is_not_the_last_says_so() -> None:
    assert whole_answer(call(last_layer=False), [tensor("x")], "tri") == said("x", last_layer=False)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("outputs.OUT[0]", said("Hello")),
        ('outputs.OUT[0] & "!" & $pipeline', said("Hello!invoice")),
        ('{"said": outputs.OUT}', said('{"said":["Hello"]}')),
        ("outputs.NONE", said("")),
        ('{"mediaContents": [{"id": "a", "mediaId": "a"}]}', ObservationReady(FIRST.encode())),
    ],
)
def test_an_output_expression_decides_what_the_answer_is(output: str, expected: Event) -> None:
    assert whole_answer(call(output), [tensor(["Hello"])], "tri") == expected


def test_a_failing_output_expression_is_named_by_pipeline_and_stage() -> None:
    with pytest.raises(TransformFailed) as caught:
        whole_answer(call("$number(outputs.OUT[0])"), [tensor("x")], "tri")
    assert caught.value.message.startswith("pipeline invoice, output: ")
    assert caught.value.reason == "evaluation"


@pytest.mark.parametrize(
    "broken",
    [
        WireTensor("OUT", "BYTES", (1,), b"\x09\0\0\0"),
        WireTensor("OUT", "INT32", (1,), b"12"),
        WireTensor("OUT", "WORDS", (1,), b"12"),
    ],
)
def test_tensors_that_cannot_be_read_are_the_upstreams_fault(broken: WireTensor) -> None:
    with pytest.raises(UpstreamFailed, match="upstream tri: output OUT: ") as caught:
        whole_answer(call(), [broken], "tri")
    assert caught.value.code is Code.UPSTREAM_INVALID


def run(made: Call, *responses: list[WireTensor]) -> list[Event]:
    pieces = Pieces(made, "tri")
    fed = [pieces.feed(tensors) for tensors in responses]
    return [*(event for event in fed if event is not None), *pieces.finish()]


def test_each_response_of_a_stream_is_a_piece() -> None:
    assert run(call(), [tensor("Hel")], [tensor("lo")]) == [piece("Hel"), piece("lo"), said("")]


def test_an_observation_in_a_stream_is_a_piece_of_text_like_any_other() -> None:
    assert run(call(), [tensor(FIRST)]) == [piece(FIRST), said("")]


def test_a_character_cut_between_two_responses_comes_through_whole() -> None:
    data = "é€😀".encode()
    responses = [[tensor(data[at : at + 1])] for at in range(len(data))]
    events = run(call(), *responses)
    assert events == [piece("é"), piece("€"), piece("😀"), said("")]


@pytest.mark.parametrize("responses", [[b"\xff"], [b"ok", b"\xc3"]])
def test_pieces_that_are_not_text_are_the_upstreams_fault(responses: list[bytes]) -> None:
    with pytest.raises(UpstreamFailed, match=r"upstream tri, model reader: .* not text in UTF-8"):
        run(call(), *([tensor(response)] for response in responses))


def test_a_response_without_tensors_is_no_piece() -> None:
    assert run(call(), [], [tensor("x")]) == [piece("x"), said("")]


def test_responses_with_numbers_are_lines_of_json() -> None:
    assert run(call(), [tensor([1], "INT32")], [tensor(["a", "b"])]) == [
        piece('{"OUT":[1]}\n'),
        piece('{"OUT":["a","b"]}\n'),
        said(""),
    ]


def test_an_output_expression_maps_each_response_and_can_drop_it() -> None:
    made = call('outputs.OUT[0] != "-" ? $uppercase(outputs.OUT[0])')
    assert run(made, [tensor("a")], [tensor("-")], [tensor("b")]) == [
        piece("A"),
        piece("B"),
        said(""),
    ]


def test_observations_that_an_output_expression_yields_come_at_the_end_as_one() -> None:
    made = call("$eval(outputs.OUT[0])")
    assert run(made, [tensor(FIRST)], [tensor(SECOND)]) == [ObservationReady(BOTH)]


def test_text_and_observation_of_one_stream_come_both() -> None:
    made = call('outputs.OUT[0] = "text" ? "text" : $eval(outputs.OUT[0])')
    assert run(made, [tensor("text")], [tensor(FIRST)]) == [
        piece("text"),
        said(""),
        ObservationReady(FIRST.encode()),
    ]
