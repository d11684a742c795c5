"""The message with the tensors, as protocol buffers' own classes read it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from gateway.upstreams.triton_messages import infer_request
from gateway.upstreams.triton_wire import InputTensor

SIZES = st.integers(0, 2**31) | st.sampled_from([0, 127, 128, 16383, 16384, 2**63 - 1])
TENSORS = st.builds(
    lambda name, datatype, shape, segments: InputTensor(
        name, datatype, tuple(shape), tuple(segments), sum(map(len, segments))
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.sampled_from(["BYTES", "INT32"]),
    st.lists(SIZES, max_size=4),
    st.lists(st.binary(max_size=300), max_size=3),
)


def generated(
    model: str, request_id: str, inputs: list[InputTensor], *, final_response: bool
) -> Any:
    message = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for tensor in inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(tensor.data)
    if final_response:
        message.parameters["triton_enable_empty_final_response"].bool_param = True
    return message


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.lists(TENSORS, max_size=3),
    st.booleans(),
)
@example("", "", [], False)
@example("m" * 200, "", [InputTensor("", "BYTES", (), (b"",), 0)], True)
def test_it_is_the_message_that_the_generated_classes_make(
    model: str, request_id: str, inputs: list[InputTensor], final_response: bool
) -> None:
    segments = infer_request(model, request_id, inputs, final_response=final_response)
    expected = generated(model, request_id, inputs, final_response=final_response)
    assert service_pb2.ModelInferRequest.FromString(b"".join(segments)) == expected


def test_a_large_element_is_in_it_as_it_came() -> None:
    element = bytes(1 << 20)
    tensor = InputTensor("IN", "BYTES", (1,), (b"\0\0\x10\0", element), (1 << 20) + 4)
    assert any(segment is element for segment in infer_request("m", "r", [tensor]))


def test_a_name_that_is_no_unicode_is_not_sent() -> None:
    with pytest.raises(UnicodeEncodeError):
        infer_request("\ud800", "r", [])
