"""The one message that carries tensors to Triton over gRPC, written without copying them.

Owns: the fields of ``ModelInferRequest`` and how protocol buffers write them down, as segments of
which large elements are still the bytes that came.
Does not know: the connection, and every other message, which the generated classes read and write.

A generated class takes a copy of what is put into it and makes another when it is serialised: of
20 MB of media, both are felt.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from gateway.upstreams.triton_wire import InputTensor

# Each field's number and wire type (2: a length, then so many bytes), as its first byte.
_MODEL_NAME: Final = b"\x0a"
_ID: Final = b"\x1a"
_PARAMETERS: Final = b"\x22"
_INPUTS: Final = b"\x2a"
_RAW_INPUT_CONTENTS: Final = b"\x3a"
# The same within an input.
_NAME: Final = b"\x0a"
_DATATYPE: Final = b"\x12"
_SHAPE: Final = b"\x1a"


def infer_request(
    model: str, request_id: str, inputs: Iterable[InputTensor], *, final_response: bool = False
) -> list[bytes]:
    """A ``ModelInferRequest`` as segments, to be sent as one.

    ``final_response`` asks for an empty last response of a decoupled model.

    Raises:
        UnicodeEncodeError: a name holds half of a surrogate pair.
    """
    head = [_field(_MODEL_NAME, model.encode()), _field(_ID, request_id.encode())]
    if final_response:
        head.append(_EMPTY_FINAL_RESPONSE)
    contents: list[bytes] = []
    for tensor in inputs:
        head.append(_input(tensor.name, tensor.datatype, tensor.shape))
        contents.append(_RAW_INPUT_CONTENTS + _varint(tensor.size))
        contents += tensor.segments
    return [b"".join(head), *contents]


@lru_cache(maxsize=512)
def _input(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """One tensor's description: the same for most requests of a model."""
    sizes = b"".join(map(_varint, shape))
    fields = (
        _field(_NAME, name.encode()),
        _field(_DATATYPE, datatype.encode()),
        _field(_SHAPE, sizes),
    )
    return _field(_INPUTS, b"".join(fields))


def _field(tag: bytes, value: bytes) -> bytes:
    """A field; one without a value is left out, as protocol buffers have it."""
    return tag + _varint(len(value)) + value if value else b""


def _varint(number: int) -> bytes:
    """A number from 0 on: seven bits a byte, the lowest first, each but the last marked."""
    if number < 0x80:
        return _BYTES[number]
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


_BYTES: Final = tuple(bytes((number,)) for number in range(0x80))
#: An entry of the map ``parameters``: a name, and a value that is the truth in its first field.
_EMPTY_FINAL_RESPONSE: Final = _field(
    _PARAMETERS,
    _field(b"\x0a", b"triton_enable_empty_final_response") + _field(b"\x12", b"\x08\x01"),
)
