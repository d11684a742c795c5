"""Tensors as bytes: against numpy and Triton's own client, and what is said of a misfit."""

from __future__ import annotations

import math
import struct
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import serialize_byte_tensor

from gateway.upstreams.triton_codec import (
    DATATYPES,
    TensorError,
    decode,
    encode,
    fit,
    split_bytes,
)

NUMPY: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
}
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3)


def integers(datatype: str) -> st.SearchStrategy[int]:
    info = np.iinfo(NUMPY[datatype])
    return st.integers(int(info.min), int(info.max))


ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    "BOOL": st.booleans(),
    **{name: integers(name) for name in DATATYPES if "INT" in name},
    "FP16": st.floats(width=16, allow_nan=False),
    "FP32": st.floats(width=32, allow_nan=False),
    "FP64": st.floats(allow_nan=False),
    "BF16": st.integers(0, 0xFFFF)
    .map(lambda half: struct.unpack("<f", struct.pack("<I", half << 16))[0])
    .filter(lambda number: not math.isnan(number)),
    "BYTES": st.one_of(st.text(), st.binary()),
}


def as_json(element: Any) -> Any:
    if isinstance(element, float) and math.isinf(element):
        return "Infinity" if element > 0 else "-Infinity"
    return element


def nest(flat: list[Any], shape: list[int]) -> Any:
    if len(shape) == 1:
        return flat
    step = len(flat) // shape[0]
    return [nest(flat[at : at + step], shape[1:]) for at in range(0, len(flat), step)]


def array_of(datatype: str, flat: list[Any], shape: list[int]) -> npt.NDArray[Any]:
    if datatype == "BYTES":
        array = np.empty(len(flat), dtype=np.object_)
        array[:] = flat
        return array.reshape(shape)
    return np.array(flat, dtype=NUMPY[datatype]).reshape(shape)


def oracle(datatype: str, array: npt.NDArray[Any]) -> bytes:
    if datatype == "BYTES":
        return bytes(serialize_byte_tensor(array).item())
    return array.tobytes()


@pytest.mark.parametrize("datatype", DATATYPES)
@given(data=st.data())
def test_bytes_are_those_of_numpy_and_of_tritons_client(datatype: str, data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    size = math.prod(shape)
    flat = data.draw(st.lists(ELEMENTS[datatype], min_size=size, max_size=size))
    value = nest([as_json(element) for element in flat], shape)
    encoded = encode("T", datatype, [-1] * len(shape), value)
    assert encoded.shape == tuple(shape)
    assert encoded.data == oracle(datatype, array_of(datatype, flat, shape))


@pytest.mark.parametrize("datatype", DATATYPES)
@given(data=st.data())
def test_what_was_encoded_decodes_to_the_same_value(datatype: str, data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    size = math.prod(shape)
    elements = ELEMENTS[datatype] if datatype != "BYTES" else st.text()
    flat = data.draw(st.lists(elements, min_size=size, max_size=size))
    value = nest([as_json(element) for element in flat], shape)
    encoded = encode("T", datatype, shape, value)
    assert decode("T", datatype, encoded.shape, encoded.data) == value


@pytest.mark.parametrize("datatype", ["INT64", "UINT64"])
@given(data=st.data())
def test_an_integer_of_64_bits_is_the_same_written_as_digits(
    datatype: str, data: st.DataObject
) -> None:
    number = data.draw(integers(datatype))
    encoded = encode("T", datatype, [1], [str(number)])
    assert encoded == encode("T", datatype, [1], [number])
    assert decode("T", datatype, [1], encoded.data) == [number]


@given(st.binary())
def test_an_element_that_is_not_text_survives_as_base64(element: bytes) -> None:
    encoded = encode("T", "BYTES", [1], [element])
    (value,) = decode("T", "BYTES", [1], encoded.data)
    assert encode("T", "BYTES", [1], [value]).data == encoded.data


@pytest.mark.parametrize("sizes", [[65_536], [3, 65_536, 4, 5], [70_000, 65_535, 70_000], [0]])
def test_large_elements_are_not_copied_and_small_ones_join_between_them(sizes: list[int]) -> None:
    elements = [bytes([number]) * size for number, size in enumerate(sizes)]
    encoded = encode("T", "BYTES", [-1], elements)
    large = [element for element in elements if len(element) >= 65_536]
    assert all(any(each is segment for segment in encoded.segments) for each in large)
    assert encoded.data == serialize_byte_tensor(np.array(elements, dtype=np.object_)).item()
    assert split_bytes("T", encoded.shape, encoded.data) == elements


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_bf16_is_rounded_as_the_reference_rounds_it(number: float) -> None:
    expected = ml_dtypes.bfloat16(number)
    if np.isinf(expected):
        with pytest.raises(TensorError, match="within its range"):
            encode("T", "BF16", [1], number)
    else:
        assert encode("T", "BF16", [1], number).data == expected.tobytes()


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16"])
@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_a_number_json_has_no_sign_for_goes_by_its_name(datatype: str, name: str) -> None:
    encoded = encode("T", datatype, [1], name)
    number = float(np.frombuffer(encoded.data, dtype=NUMPY[datatype])[0])
    assert str(number) == {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}[name]
    assert decode("T", datatype, [1], encoded.data) == [name]


@pytest.mark.parametrize(
    ("shape", "dims", "expected"),
    [
        ((), [1], (1,)),
        ((), [-1], (1,)),
        ((), [-1, 1], (1, 1)),
        ((), [], ()),
        ((3,), [-1], (3,)),
        ((3,), [-1, -1], (1, 3)),
        ((3,), [-1, 1], (3, 1)),
        ((3,), [3, -1], (3, 1)),
        ((2, 3), [-1, 2, 3], (1, 2, 3)),
        ((2, 3), [2, -1, 3], (2, 1, 3)),
        ((0,), [-1], (0,)),
        ((2,), [1], None),
        ((), [2], None),
        ((1, 1), [1], None),
        ((), [1] * 17, None),
    ],
)
def test_missing_dimensions_count_one(
    shape: tuple[int, ...], dims: list[int], expected: tuple[int, ...] | None
) -> None:
    assert fit(shape, dims) == expected


@pytest.mark.parametrize(
    ("datatype", "value", "expected"),
    [
        ("INT32", 3.0, struct.pack("<i", 3)),
        ("INT64", [-(2**63)], struct.pack("<q", -(2**63))),
        ("UINT64", [2**64 - 1], struct.pack("<Q", 2**64 - 1)),
        ("UINT64", ["18446744073709551615", "0"], struct.pack("<2Q", 2**64 - 1, 0)),
        ("INT64", ["-9223372036854775808", "-5"], struct.pack("<2q", -(2**63), -5)),
        ("INT64", ["9007199254740993", 7], struct.pack("<2q", 2**53 + 1, 7)),
        ("FP32", [1], struct.pack("<f", 1.0)),
        ("BYTES", [b"\xff"], b"\x01\0\0\0\xff"),
        ("BYTES", "é", b"\x02\0\0\0\xc3\xa9"),
        ("BYTES", {"base64": "/w=="}, b"\x01\0\0\0\xff"),
        ("BYTES", [], b""),
    ],
)
def test_a_value_that_means_the_same_is_taken(datatype: str, value: Any, expected: bytes) -> None:
    assert encode("T", datatype, [-1], value).data == expected


MISFITS = [
    ("UINT8", [1, 300], "T[1]: expected UINT8 (a whole number from 0 to 255), got 300"),
    ("INT8", [[1, 2], [3, -129]], "T[1][1]: expected INT8 (a whole number from -128 to 127)"),
    ("INT32", 1.5, "T: expected INT32 (a whole number from -2147483648 to 2147483647), got 1.5"),
    ("INT32", True, "got true"),
    ("INT32", [False], "got false"),
    ("INT32", ["1"], "T[0]: expected INT32"),
    ("INT32", [None], "got null"),
    ("INT64", 10**60, "got a number of 61 digits"),
    (
        "INT64",
        [0, "9223372036854775808"],
        "T[1]: expected INT64 (a whole number from -9223372036854775808 to 9223372036854775807, "
        "or its decimal digits as text), got text",
    ),
    ("INT64", ["-9223372036854775809"], "T[0]: expected INT64"),
    ("UINT64", ["18446744073709551616"], "to 18446744073709551615, or its decimal digits as text)"),
    ("UINT64", ["-1"], "T[0]: expected UINT64"),
    ("UINT64", ["9" * 5000], "T[0]: expected UINT64"),
    ("INT64", [""], "T[0]: expected INT64"),
    ("INT64", [" 5"], "T[0]: expected INT64"),
    ("INT64", ["5\n"], "T[0]: expected INT64"),
    ("INT64", ["+5"], "T[0]: expected INT64"),
    ("INT64", ["1_000"], "T[0]: expected INT64"),
    ("INT64", ["1e3"], "T[0]: expected INT64"),
    ("INT64", ["٣"], "T[0]: expected INT64"),
    ("INT64", [math.inf], "T[0]: expected INT64"),
    ("INT64", [2.0**63], "T[0]: expected INT64"),
    ("UINT32", ["5"], "T[0]: expected UINT32 (a whole number from 0 to 4294967295), got text"),
    ("INT16", [1, [2]], "T[1]: expected INT16"),
    ("BOOL", [1], "T[0]: expected BOOL (true or false), got 1"),
    ("FP32", ["one"], "T[0]: expected FP32 (a number), got text"),
    ("FP32", [True], "T[0]: expected FP32 (a number), got true"),
    ("FP32", [{}], "got an object"),
    ("FP32", [b"x"], "got media"),
    ("FP16", [65520], "T[0]: expected FP16 (a number within its range), got 65520"),
    ("FP32", [1e39], "T[0]: expected FP32 (a number within its range), got 1e+39"),
    ("FP64", [10**400], "T[0]: expected FP64 (a number within its range)"),
    ("BF16", [3.4e38], "T[0]: expected BF16 (a number within its range)"),
    ("BYTES", [1], 'T[0]: expected BYTES (text, or {"base64": "…"}), got 1'),
    ("BYTES", [{"base64": 5}], "got an object"),
    ("BYTES", [{"base64": "", "more": 1}], "got an object"),
    ("BYTES", [{"base64": "?"}], "T[0]: expected BYTES (text that is Unicode, or valid base64)"),
    ("BYTES", [{"base64": "é"}], "T[0]: expected BYTES (text that is Unicode, or valid base64)"),
    ("BYTES", ["\ud800"], "T[0]: expected BYTES (text that is Unicode, or valid base64), got text"),
    ("INT8", [[1], [2, 3]], "T[1]: expected a list of 1 elements like the one before it, got 2"),
    ("INT8", [[[1], [2]], [[3], 4]], "T[1][1]: expected a list of 1 elements like the one before"),
    ("INT8", [[1], 2], "got no list"),
    ("COMPLEX", 1, "T: datatype COMPLEX is not one of BOOL, UINT8"),
]


@pytest.mark.parametrize(("datatype", "value", "message"), MISFITS)
def test_a_misfit_names_tensor_position_and_what_is_expected(
    datatype: str, value: Any, message: str
) -> None:
    with pytest.raises(TensorError) as caught:
        encode("T", datatype, [-1] * 3, value)
    assert message in str(caught.value)


def test_text_is_not_repeated_in_an_error() -> None:
    with pytest.raises(TensorError) as caught:
        encode("T", "INT32", [1], "private")
    assert "private" not in str(caught.value)


def test_a_shape_that_cannot_fit_is_shown_beside_the_one_asked_for() -> None:
    with pytest.raises(TensorError, match=r"T: takes INT8 of shape \[1, 3\].*has shape \[2\]"):
        encode("T", "INT8", [1, 3], [1, 2])


@pytest.mark.parametrize("datatype", ["INT32", "BYTES"])
def test_a_tensor_of_more_dimensions_than_any_has_is_refused(datatype: str) -> None:
    assert decode("t", datatype, [1] * 16, bytes(4)) is not None
    with pytest.raises(TensorError, match="t: has 2000 dimensions; at most 16 are read"):
        decode("t", datatype, [1] * 2000, bytes(4))


def test_lists_nested_too_deep_are_refused() -> None:
    value: Any = 1
    for _ in range(17):
        value = [value]
    with pytest.raises(TensorError, match="nested deeper than 16"):
        encode("T", "INT8", [-1], value)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("INT32", [2], b"1234", "T: 2 elements of INT32 take 8 bytes, got 4"),
        ("BF16", [1], b"1", "T: 1 elements of BF16 take 2 bytes, got 1"),
        ("FP64", [1], b"", "T: 1 elements of FP64 take 8 bytes, got 0"),
        ("BOOL", [1], b"12", "T: 1 elements of BOOL take 1 bytes, got 2"),
        ("INT32", [-1], b"", "T: shape [-1] has a negative size"),
        ("BYTES", [1], b"\x01", "T: element 0 is cut off in its length"),
        ("BYTES", [1], b"\x05\0\0\0ab", "T: element 0 should have 5 bytes, but 2 are left"),
        ("BYTES", [2], b"\x01\0\0\0a", "T: has 1 elements, but its shape [2] asks for 2"),
        ("BYTES", [0], b"\x01\0\0\0a", "T: has 1 elements, but its shape [0] asks for 0"),
        ("FP8", [1], b"1", "T: datatype FP8 is not one of"),
    ],
)
def test_bytes_that_do_not_fit_their_shape_are_refused(
    datatype: str, shape: list[int], data: bytes, message: str
) -> None:
    with pytest.raises(TensorError) as caught:
        decode("T", datatype, shape, data)
    assert message in str(caught.value)


def test_an_empty_tensor_is_an_empty_list_however_large_its_other_dimensions() -> None:
    assert decode("T", "FP32", [10**12, 0], b"") == []
    assert decode("T", "BYTES", [0], b"") == []


def test_a_tensor_without_dimensions_is_its_element() -> None:
    assert decode("T", "INT8", [], b"\xff") == -1


def test_the_elements_of_a_bytes_tensor_can_be_had_as_they_are() -> None:
    data = encode("T", "BYTES", [-1], [b"\xff", "é"]).data
    assert split_bytes("T", [2], data) == [b"\xff", "é".encode()]


@given(st.sampled_from(DATATYPES), st.lists(st.integers(0, 3), max_size=3), st.binary())
def test_any_bytes_decode_or_are_refused_with_a_sentence(
    datatype: str, shape: list[int], data: bytes
) -> None:
    message = ""
    try:
        decode("T", datatype, shape, data)
    except TensorError as error:
        message = str(error)
    assert message == "" or message.startswith("T: ")
