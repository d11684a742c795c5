"""Tensors to bytes and back: every KServe v2 datatype, in the binary form that Triton reads.

Owns: the datatypes' layouts, the shape that a JSON value has or can be given, and the sentence that
says which element of which tensor does not fit.
Does not know: where a value comes from, or how tensors travel.

Elements are little-endian and in row-major order; an element of a BYTES tensor is its length in
four bytes, then itself. As JSON a BYTES element is a string, or ``{"base64": "…"}`` where it is not
UTF-8; a number that JSON has no sign for is ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``, as in the
JSON form of protocol buffers. An INT64 or UINT64 may come as a string of its decimal digits too,
``"-5"``: JSONata has doubles only, which are not exact beyond 2^53. It goes back as a number. So
nothing is lost in either direction.
"""

from __future__ import annotations

import binascii
import math
import re
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Final

#: Integer datatypes: the letter ``struct`` has for each, and its range.
_INTEGERS: Final[dict[str, tuple[str, int, int]]] = {
    "UINT8": ("B", 0, 2**8 - 1),
    "UINT16": ("H", 0, 2**16 - 1),
    "UINT32": ("I", 0, 2**32 - 1),
    "UINT64": ("Q", 0, 2**64 - 1),
    "INT8": ("b", -(2**7), 2**7 - 1),
    "INT16": ("h", -(2**15), 2**15 - 1),
    "INT32": ("i", -(2**31), 2**31 - 1),
    "INT64": ("q", -(2**63), 2**63 - 1),
}
#: What a string must be to stand for an integer; no integer of 64 bits has more digits.
_DIGITS: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,19})")
_FLOATS: Final[dict[str, str]] = {"FP16": "e", "FP32": "f", "FP64": "d", "BF16": "f"}
_NAMED_FLOATS: Final[dict[str, float]] = {
    "NaN": math.nan,
    "Infinity": math.inf,
    "-Infinity": -math.inf,
}

DATATYPES: Final = ("BOOL", *_INTEGERS, *_FLOATS, "BYTES")

#: Ranks above this do not occur; it keeps the search for a fitting shape short.
_RANK_MAX: Final = 16
_LENGTH: Final = struct.Struct("<I")
#: An element from this size on is not copied into its tensor, but stands as a segment of its own.
_SEGMENT_BYTES: Final = 64 * 1024


class TensorError(ValueError):
    """A value does not fit a tensor, or a tensor's bytes do not fit its shape."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tensor ready to be sent: its whole shape, no -1 left, and its bytes, which are its
    ``segments`` one after the other. Large BYTES elements are segments as they came."""

    shape: tuple[int, ...]
    segments: tuple[bytes, ...]

    @property
    def data(self) -> bytes:
        """Its bytes as one."""
        return joined(self.segments)


def encode(tensor: str, datatype: str, dims: Sequence[int], value: Any) -> Encoded:
    """The bytes of ``value`` as ``tensor``.

    Args:
        tensor: the tensor's name, for errors.
        datatype: one of ``DATATYPES``.
        dims: the shape the model declares; -1 takes any size.
        value: a JSON value: nested lists, or a single element. ``bytes`` may stand for BYTES
            elements, and a string of decimal digits for INT64 and UINT64 ones. Dimensions that the
            value lacks count 1, the leading ones first: a single element fits ``[-1]``, ``[1]`` and
            ``[-1, 1]``.

    Raises:
        TensorError: naming the tensor, the element's position and what is expected there.
    """
    pack = _packer(tensor, datatype)
    shape, flat = _flatten(tensor, value)
    fitted = fit(shape, dims)
    if fitted is None:
        raise TensorError(
            f"{tensor}: takes {datatype} of shape {list(dims)}, but the value has shape "
            f"{list(shape)}"
        )
    return Encoded(fitted, pack(_Elements(tensor, datatype, shape, flat)))


def joined(segments: Sequence[bytes]) -> bytes:
    """Segments as one, not copied where there is only one."""
    if len(segments) == 1 and isinstance(segments[0], bytes):
        return segments[0]
    return b"".join(segments)


def decode(tensor: str, datatype: str, shape: Sequence[int], data: bytes) -> Any:
    """The value of ``tensor``: lists nested as deep as ``shape``, or an element where that is [].

    Raises:
        TensorError: the datatype is unknown, or ``data`` is not as long as ``shape`` says.
    """
    count = _count(tensor, shape)
    flat: Sequence[Any]
    if datatype == "BYTES":
        flat = [_text(element) for element in split_bytes(tensor, shape, data)]
    elif datatype == "BOOL":
        flat = [byte != 0 for byte in _checked(tensor, datatype, count, 1, data)]
    elif datatype in _INTEGERS:
        letter = _INTEGERS[datatype][0]
        size = struct.calcsize(f"<{letter}")
        flat = struct.unpack(f"<{count}{letter}", _checked(tensor, datatype, count, size, data))
    elif datatype in _FLOATS:
        flat = [_json_number(number) for number in _floats(tensor, datatype, count, data)]
    else:
        raise _unknown(tensor, datatype)
    return _nest(flat, shape)


def split_bytes(tensor: str, shape: Sequence[int], data: bytes) -> list[bytes]:
    """The elements of a BYTES tensor as they are. Raises TensorError like ``decode``."""
    count = _count(tensor, shape)
    elements: list[bytes] = []
    at, end = 0, len(data)
    while at < end:
        if end - at < 4:
            raise TensorError(f"{tensor}: element {len(elements)} is cut off in its length")
        length = _LENGTH.unpack_from(data, at)[0]
        at += 4
        if end - at < length:
            raise TensorError(
                f"{tensor}: element {len(elements)} should have {length} bytes, but {end - at} "
                "are left"
            )
        elements.append(data[at : at + length])
        at += length
    if len(elements) != count:
        raise TensorError(
            f"{tensor}: has {len(elements)} elements, but its shape {list(shape)} asks for {count}"
        )
    return elements


def fit(shape: Sequence[int], dims: Sequence[int]) -> tuple[int, ...] | None:
    """``shape`` with ones put in so that it matches ``dims``, or ``None`` where nothing does.

    The last dimensions are matched first: two elements fit ``[-1, -1]`` as ``[1, 2]``, and
    ``[-1, 1]`` as ``[2, 1]``.
    """
    return _fit(tuple(shape), tuple(dims))


@lru_cache(maxsize=256)
def _fit(shape: tuple[int, ...], dims: tuple[int, ...]) -> tuple[int, ...] | None:
    """See ``fit``: most requests of a model have the same shape."""
    rank = len(dims)
    if len(shape) > rank or rank > _RANK_MAX:
        return None
    for places in sorted(combinations(range(rank), len(shape)), reverse=True):
        whole = [1] * rank
        for place, size in zip(places, shape, strict=True):
            whole[place] = size
        if all(dim in (-1, size) for dim, size in zip(dims, whole, strict=True)):
            return tuple(whole)
    return None


@dataclass(frozen=True, slots=True)
class _Elements:
    """The elements of one value in row-major order, and what is needed to name one of them."""

    tensor: str
    datatype: str
    shape: tuple[int, ...]
    flat: list[Any]

    def misfit(self, index: int, expected: str) -> TensorError:
        """The error for the element at ``index``."""
        path = "".join(f"[{at}]" for at in _unravel(index, self.shape))
        return TensorError(
            f"{self.tensor}{path}: expected {self.datatype} ({expected}), "
            f"got {_name(self.flat[index])}"
        )


def _flatten(tensor: str, value: Any) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of nested lists, and their elements. Every list of a level is equally long."""
    shape: list[int] = []
    level: list[Any] = [value]
    while level and isinstance(level[0], list):
        size = len(level[0])
        if len(shape) == _RANK_MAX:
            raise TensorError(f"{tensor}: lists are nested deeper than {_RANK_MAX}")
        for index, item in enumerate(level):
            if not isinstance(item, list) or len(item) != size:
                path = "".join(f"[{at}]" for at in _unravel(index, shape))
                what = f"{len(item)} elements" if isinstance(item, list) else "no list"
                raise TensorError(
                    f"{tensor}{path}: expected a list of {size} elements like the one before it, "
                    f"got {what}"
                )
        shape.append(size)
        level = [element for item in level for element in item]
    return tuple(shape), level


def _unravel(index: int, shape: Sequence[int]) -> list[int]:
    """The position of the element at ``index``, one number for each dimension."""
    path: list[int] = []
    for size in reversed(shape):
        index, at = divmod(index, size)
        path.insert(0, at)
    return path


def _nest(flat: Sequence[Any], shape: Sequence[int]) -> Any:
    """``_flatten`` undone. A shape with a 0 in it gives an empty list, however large the rest."""
    if not shape:
        return flat[0]
    if not flat:
        return []
    values = list(flat)
    for size in reversed(shape[1:]):
        values = [values[at : at + size] for at in range(0, len(values), size)]
    return values


def _packer(tensor: str, datatype: str) -> Callable[[_Elements], tuple[bytes, ...]]:
    if datatype == "BYTES":
        return _pack_bytes
    if datatype == "BOOL":
        return _pack_booleans
    if datatype in _INTEGERS:
        return _pack_integers
    if datatype in _FLOATS:
        return _pack_floats
    raise _unknown(tensor, datatype)


def _pack_bytes(elements: _Elements) -> tuple[bytes, ...]:
    segments: list[bytes] = []
    small: list[bytes] = []
    for index, value in enumerate(elements.flat):
        try:
            data = _element_bytes(value)
        except (UnicodeEncodeError, binascii.Error) as error:
            raise elements.misfit(index, "text that is Unicode, or valid base64") from error
        if data is None:
            raise elements.misfit(index, 'text, or {"base64": "…"}')
        small += (_LENGTH.pack(len(data)), data)
        if len(data) >= _SEGMENT_BYTES:
            small.pop()
            segments += (b"".join(small), data)
            small = []
    if small or not segments:
        segments.append(b"".join(small))
    return tuple(segments)


def _element_bytes(value: Any) -> bytes | None:
    match value:
        case bytes():
            return value
        case str():
            return value.encode()
        case {"base64": str(text), **rest} if not rest:
            return b64decode(text.encode(), validate=True)
    return None


def _text(element: bytes) -> str | dict[str, str]:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(element).decode()}


def _pack_booleans(elements: _Elements) -> tuple[bytes, ...]:
    for index, value in enumerate(elements.flat):
        if not isinstance(value, bool):
            raise elements.misfit(index, "true or false")
    return (bytes(elements.flat),)


def _pack_integers(elements: _Elements) -> tuple[bytes, ...]:
    letter, low, high = _INTEGERS[elements.datatype]
    wide = elements.datatype in ("INT64", "UINT64")
    expected = f"a whole number from {low} to {high}"
    if wide:
        expected += ", or its decimal digits as text"
    numbers: list[int] = []
    for index, value in enumerate(elements.flat):
        number = _whole(value, digits=wide)
        if number is None or not low <= number <= high:
            raise elements.misfit(index, expected)
        numbers.append(number)
    return (struct.pack(f"<{len(numbers)}{letter}", *numbers),)


def _whole(value: Any, *, digits: bool) -> int | None:
    """The integer that ``value`` is, ``None`` where it is none. ``digits``: a string may be one."""
    match value:
        case bool():
            return None
        case int():
            return value
        # JSONata has one kind of number: a whole one may come written 3.0.
        case float() if value.is_integer():
            return int(value)
        case str() if digits and _DIGITS.fullmatch(value):
            return int(value)
    return None


def _pack_floats(elements: _Elements) -> tuple[bytes, ...]:
    pack = struct.Struct(f"<{_FLOATS[elements.datatype]}").pack
    parts: list[bytes] = []
    for index, value in enumerate(elements.flat):
        number = _NAMED_FLOATS.get(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise elements.misfit(index, "a number")
        try:
            packed = pack(number)
            parts.append(_to_bf16(packed, number) if elements.datatype == "BF16" else packed)
        except (OverflowError, struct.error) as error:
            raise elements.misfit(index, "a number within its range") from error
    return (b"".join(parts),)


def _to_bf16(fp32: bytes, number: float) -> bytes:
    """The upper half of an FP32, rounded to the nearest, ties to even."""
    bits = int.from_bytes(fp32, "little")
    if math.isnan(number):
        return ((bits >> 16) | 0x0040).to_bytes(2, "little")
    bits += 0x7FFF + ((bits >> 16) & 1)
    if math.isfinite(number) and (bits >> 16) & 0x7FFF == 0x7F80:
        raise OverflowError(number)
    return (bits >> 16).to_bytes(2, "little")


def _floats(tensor: str, datatype: str, count: int, data: bytes) -> tuple[float, ...]:
    if datatype == "BF16":
        halves = struct.unpack(f"<{count}H", _checked(tensor, datatype, count, 2, data))
        data = struct.pack(f"<{count}I", *(half << 16 for half in halves))
    letter = _FLOATS[datatype]
    size = struct.calcsize(f"<{letter}")
    return struct.unpack(f"<{count}{letter}", _checked(tensor, datatype, count, size, data))


def _json_number(number: float) -> float | str:
    if math.isfinite(number):
        return number
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def _count(tensor: str, shape: Sequence[int]) -> int:
    if len(shape) > _RANK_MAX:  # lists nested so deep, nobody could write down
        raise TensorError(f"{tensor}: has {len(shape)} dimensions; at most {_RANK_MAX} are read")
    if any(size < 0 for size in shape):
        raise TensorError(f"{tensor}: shape {list(shape)} has a negative size")
    return math.prod(shape)


def _checked(tensor: str, datatype: str, count: int, size: int, data: bytes) -> bytes:
    if len(data) != count * size:
        raise TensorError(
            f"{tensor}: {count} elements of {datatype} take {count * size} bytes, got {len(data)}"
        )
    return data


def _unknown(tensor: str, datatype: str) -> TensorError:
    return TensorError(f"{tensor}: datatype {datatype} is not one of {', '.join(DATATYPES)}")


def _name(value: Any) -> str:
    """What a JSON value is, for an error: numbers as they are, text never (it may be private)."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            written = repr(value)
            return written if len(written) <= 40 else f"a number of {len(written)} digits"
        case str():
            return "text"
        case bytes():
            return "media"
        case list():
            return "a list"
        case None:
            return "null"
    return "an object"
