"""From a request to a model's input tensors: expressions, ``$media``, and the default."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from gateway.errors import Code, RequestRejected, TransformFailed
from gateway.model import Media, Request
from gateway.transform import Bounds, compile_expression
from gateway.upstreams.base import Call
from gateway.upstreams.triton_inputs import build_inputs
from gateway.upstreams.triton_model import Model, Tensor

ONE = Tensor("TEXT", "BYTES", (1,))
MANY = Tensor("TEXT", "BYTES", (-1,))
NAME = Tensor("NAME", "BYTES", (1,), optional=True)
SIZES = Tensor("SIZES", "INT32", (-1, 2))


def model(*inputs: Tensor, max_batch_size: int = 0) -> Model:
    return Model("reader", 1, inputs, (), max_batch_size, False, ())


def media(*files: bytes) -> tuple[Media, ...]:
    return tuple(Media(f"media-{n}", data, "image/png") for n, data in enumerate(files, 1))


def call(*files: bytes, inputs: dict[str, str] | None = None, **request: Any) -> Call:
    return Call(
        request=Request(pipeline="invoice", request_id="r", media=media(*files), **request),
        pipeline="reader",
        actor="a",
        inputs={
            name: compile_expression(text, bounds=Bounds()) for name, text in (inputs or {}).items()
        },
        bindings={"pipeline": "invoice", "requestId": "r", "headers": {"x-tenant": "t1"}},
    )


def elements(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = struct.unpack_from("<I", data)[0]
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def built(made: Call, of: Model) -> dict[str, tuple[tuple[int, ...], list[bytes]]]:
    return {tensor.name: (tensor.shape, elements(tensor.data)) for tensor in build_inputs(made, of)}


@pytest.mark.parametrize(
    ("expression", "files", "expected"),
    [
        ("$media", [b"\xff\x00"], [b"\xff\x00"]),
        ("$media", [b"a", b"b"], [b"a", b"b"]),
        ("$media[0]", [b"a", b"b"], [b"a"]),
        ("$media[-1]", [b"a", b"b"], [b"b"]),
        ("$reverse($media)", [b"a", b"b"], [b"b", b"a"]),
        ("[$media[1], text]", [b"a", b"b"], [b"b", b"words"]),
        ("$media[$$.media[$index].contentType]", [], None),
        ("text", [], [b"words"]),
        ("$string(media.size)", [b"abc"], [b"3"]),
        ("$headers.`x-tenant` & $pipeline & $requestId", [], [b"t1invoicer"]),
    ],
)
def test_an_expression_picks_media_and_anything_else_of_the_request(
    expression: str, files: list[bytes], expected: list[bytes] | None
) -> None:
    made = call(*files, inputs={"TEXT": expression}, text="words")
    if expected is None:
        with pytest.raises(RequestRejected):
            build_inputs(made, model(MANY))
    else:
        assert built(made, model(MANY)) == {"TEXT": ((len(expected),), expected)}


def test_media_reach_the_tensor_as_they_are() -> None:
    everything = bytes(range(256)) * 100
    (tensor,) = build_inputs(call(everything, inputs={"TEXT": "$media"}), model(ONE))
    assert tensor.data == struct.pack("<I", len(everything)) + everything


def test_a_tensor_of_numbers_gets_the_expressions_numbers() -> None:
    made = call(b"a", b"bcd", inputs={"SIZES": "media.[1, size]"})
    (tensor,) = build_inputs(made, model(SIZES))
    assert (tensor.shape, tensor.data) == ((2, 2), struct.pack("<4i", 1, 1, 1, 3))


def test_an_optional_input_without_a_value_is_left_out() -> None:
    made = call(inputs={"TEXT": "text", "NAME": "context"}, text="words")
    assert built(made, model(ONE, NAME)) == {"TEXT": ((1,), [b"words"])}


@pytest.mark.parametrize("expression", ["context", "media", "[]"])
def test_a_required_input_without_a_value_is_the_requests_fault(expression: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        build_inputs(call(inputs={"TEXT": expression}, text="words"), model(ONE))
    assert caught.value.code is Code.BAD_REQUEST
    assert caught.value.message == (
        "pipeline invoice, inputs.TEXT: nothing in the request for model reader's input TEXT"
    )


def test_a_failing_expression_is_named_by_pipeline_and_tensor() -> None:
    with pytest.raises(TransformFailed) as caught:
        build_inputs(call(inputs={"TEXT": "$number(text)"}, text="words"), model(ONE))
    assert caught.value.message.startswith("pipeline invoice, inputs.TEXT: ")
    assert caught.value.reason == "evaluation"
    assert caught.value.status == 500


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("[1, 2, 3]", "SIZES: takes INT32 of shape [-1, 2], but the value has shape [3]"),
        ('[[1, "x"]]', "SIZES[0][1]: expected INT32 (a whole number from"),
        ("$media", "SIZES[0]: expected INT32"),
    ],
)
def test_a_result_that_does_not_fit_names_the_element(expression: str, message: str) -> None:
    made = call(b"secret", b"x", inputs={"SIZES": expression})
    with pytest.raises(TransformFailed) as caught:
        build_inputs(made, model(SIZES))
    assert message in caught.value.message
    assert caught.value.reason == "result"


def test_media_inside_a_longer_text_are_refused() -> None:
    with pytest.raises(TransformFailed, match=r"inputs.TEXT: \$media can only stand alone"):
        build_inputs(call(b"a", inputs={"TEXT": '"file: " & $media[0]'}), model(ONE))


def test_the_placeholder_of_media_is_in_no_error() -> None:
    with pytest.raises(TransformFailed) as caught:
        build_inputs(call(b"a", inputs={"TEXT": "$media[0] + 1"}), model(ONE))
    assert "media:" not in caught.value.message.replace("media:…", "")


def test_a_text_that_looks_like_a_placeholder_stays_a_text() -> None:
    made = call(b"a", inputs={"TEXT": "text"}, text="media:0:0")
    assert built(made, model(ONE)) == {"TEXT": ((1,), [b"media:0:0"])}


@pytest.mark.parametrize(
    ("made", "of", "expected"),
    [
        (call(b"a", text="words"), model(ONE), ((1,), [b"a"])),
        (call(b"a", b"b"), model(MANY), ((2,), [b"a", b"b"])),
        (call(b"a", b"b"), model(Tensor("TEXT", "BYTES", (-1, 1)), max_batch_size=2),
         ((2, 1), [b"a", b"b"])),
        (call(text="words"), model(ONE, NAME), ((1,), [b"words"])),
        (call(text=""), model(ONE), ((1,), [b""])),
        (call(observation=b'{"mediaContents":[]}'), model(ONE),
         ((1,), [b'{"mediaContents":[]}'])),
    ],
)  # fmt: skip
def test_without_an_expression_the_one_bytes_input_gets_media_or_text_or_observation(
    made: Call, of: Model, expected: Any
) -> None:
    assert built(made, of) == {"TEXT": expected}


def test_the_default_fills_what_the_expressions_leave() -> None:
    made = call(b"a", inputs={"NAME": "media[0].id"})
    assert built(made, model(ONE, NAME)) == {
        "NAME": ((1,), [b"media-1"]),
        "TEXT": ((1,), [b"a"]),
    }


@pytest.mark.parametrize(
    ("of", "takes"),
    [
        (model(ONE), "takes exactly 1"),
        (model(Tensor("TEXT", "BYTES", (-1, 1)), max_batch_size=2), "takes at most 2"),
        (model(Tensor("TEXT", "BYTES", (-1, 2)), max_batch_size=1), "takes at most 2"),
        (model(Tensor("TEXT", "BYTES", (2, 2))), "takes shape [2, 2]"),
    ],
)
def test_more_media_than_fit_are_refused_with_both_numbers(of: Model, takes: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        build_inputs(call(b"a", b"b", b"c"), of)
    assert caught.value.code is Code.BAD_REQUEST
    assert "the request has 3 media" in caught.value.message
    assert takes in caught.value.message


def test_one_text_for_a_tensor_of_two_is_refused() -> None:
    with pytest.raises(RequestRejected, match=r"the request has a text.*takes exactly 2"):
        build_inputs(call(text="x"), model(Tensor("TEXT", "BYTES", (2,))))


def test_one_observation_for_a_tensor_of_two_is_refused() -> None:
    with pytest.raises(RequestRejected, match=r"the request has an observation.*takes exactly 2"):
        build_inputs(call(observation=b"{}"), model(Tensor("TEXT", "BYTES", (2,))))


def test_a_request_with_nothing_in_it_is_refused() -> None:
    with pytest.raises(RequestRejected, match="no media, no text and no observation"):
        build_inputs(call(), model(ONE))


@pytest.mark.parametrize(
    ("inputs", "of", "message"),
    [
        ({"FOO": "text"}, model(ONE), "model reader has no input FOO; its inputs are TEXT"),
        ({}, model(ONE, SIZES), "no single required BYTES input"),
        ({}, model(SIZES), "SIZES (INT32 [-1, 2])"),
        ({}, model(NAME), "would get no input at all; its inputs are NAME (BYTES [1], optional)"),
        ({}, model(), "its inputs are none"),
    ],
)
def test_a_model_that_needs_expressions_says_which(
    inputs: dict[str, str], of: Model, message: str
) -> None:
    with pytest.raises(RequestRejected) as caught:
        build_inputs(call(text="x", inputs=inputs), of)
    assert caught.value.code is Code.NOT_SUPPORTED
    assert message in caught.value.message
    assert "pipeline invoice" in caught.value.message
