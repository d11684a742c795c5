"""What both ways of talking to Triton, gRPC and HTTP, have in common.

Owns: the tensors that go over the wire, the ``Transport`` protocol, and the one function that turns
a refusal of Triton's, or of the network before it, into the project's errors.
Does not know: either wire format, nor what the tensors mean.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Protocol

from msgspec import Struct

from gateway.errors import Code, UpstreamFailed, UpstreamTimeout
from gateway.upstreams.triton_codec import joined
from gateway.upstreams.triton_model import Model

_SENTENCE_CHARS_MAX: Final = 300
_REQUEST_ID_PREFIX: Final = re.compile(r"^\[request id: [^\]]*\] ")


class WireTensor(Struct, frozen=True):
    """An output tensor: ``data`` are its elements in the binary form."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


class InputTensor(Struct, frozen=True):
    """An input tensor: its elements in the binary form are its ``segments`` one after the other,
    ``size`` bytes in all."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    segments: tuple[bytes, ...]
    size: int

    @property
    def data(self) -> bytes:
        """Its elements as one."""
        return joined(self.segments)


class Inference(Struct, frozen=True):
    """One request to run ``model``. ``headers`` are those of the caller's request that are let
    through, names in lower case; ``connect_s`` bounds the wait for a connection, seconds."""

    model: Model
    request_id: str
    headers: Mapping[str, str]
    inputs: Sequence[InputTensor]
    connect_s: float

    @property
    def bytes_total(self) -> int:
        """How much tensor data it carries, bytes."""
        return sum(tensor.size for tensor in self.inputs)


class Transport(Protocol):
    """One Triton server over one protocol. Every method raises ``Refused``, and a timeout of the
    connection's as ``UpstreamTimeout``."""

    async def ready(self) -> bool:
        """Whether the server is up and all its models are loaded."""
        ...

    async def metadata(self, model: str, request_id: str) -> Any:
        """The model's metadata, as Triton's HTTP API gives it."""
        ...

    async def config(self, model: str, request_id: str) -> Any:
        """The model's configuration, as Triton's HTTP API gives it."""
        ...

    async def infer(self, inference: Inference) -> list[WireTensor]:
        """Run a model that answers once."""
        ...

    def stream(self, inference: Inference) -> AsyncGenerator[list[WireTensor]]:
        """Run a decoupled model: the tensors of each response, as it arrives."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class Status(StrEnum):
    """Why something was refused; gRPC's names, as Triton's HTTP statuses map to them too."""

    UNREACHABLE = "unreachable"  # no connection could be made
    BROKEN = "broken"  # a connection was lost
    UNREADABLE = "unreadable"  # what came over it makes no sense
    UNAVAILABLE = "unavailable"
    NOT_FOUND = "not_found"
    INVALID_ARGUMENT = "invalid_argument"
    UNIMPLEMENTED = "unimplemented"
    DEADLINE = "deadline"
    BUSY = "busy"
    TOO_LARGE = "too_large"
    UNAUTHORIZED = "unauthorized"
    IN_STREAM = "in_stream"  # an error in place of a response: Triton gives no status with it
    INTERNAL = "internal"

    @property
    def may_be_stale(self) -> bool:
        """Whether the model having changed since its metadata was read would explain it."""
        return self in (
            Status.NOT_FOUND,
            Status.INVALID_ARGUMENT,
            Status.UNIMPLEMENTED,
            Status.UNAVAILABLE,
            Status.IN_STREAM,
        )


class Refused(Exception):
    """A call did not succeed. ``said``: Triton's sentence, or what happened on the network."""

    def __init__(self, status: Status, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.said = said


def failure(refused: Refused, upstream: str, model: str | None) -> UpstreamFailed | UpstreamTimeout:
    """The project's error for ``refused``; the message names the upstream and the model."""
    said = _sentence(refused.said)
    where = f"upstream {upstream}" + (f", model {model}" if model else "")
    match refused.status:
        case Status.UNREACHABLE:
            return UpstreamFailed(f"upstream {upstream}: {said}", code=Code.UPSTREAM_UNREACHABLE)
        case Status.DEADLINE:
            return UpstreamTimeout(f"{where}: {said}")
        case Status.NOT_FOUND:
            said = f"upstream {upstream}: has no model {model} ({said})"
            return UpstreamFailed(said, alive=True)
        case Status.INVALID_ARGUMENT:
            return UpstreamFailed(f"{where}: {said}", code=Code.UPSTREAM_REJECTED)
        case Status.BUSY:
            return UpstreamFailed(f"{where}: {said}", code=Code.UPSTREAM_BUSY)
        case Status.UNREADABLE | Status.TOO_LARGE:
            return UpstreamFailed(f"{where}: {said}", code=Code.UPSTREAM_INVALID)
        case Status.UNAUTHORIZED:
            return UpstreamFailed(f"{where}: refused the gateway ({said})")
        case (
            Status.BROKEN
            | Status.UNAVAILABLE
            | Status.UNIMPLEMENTED
            | Status.IN_STREAM
            | Status.INTERNAL
        ):
            # A model that fails on what it was given says nothing of the server, or of others.
            alive = refused.status not in (Status.BROKEN, Status.UNAVAILABLE)
            return UpstreamFailed(f"{where}: {said}", alive=alive)


def is_busy(said: str) -> bool:
    """Whether Triton's sentence says that a queue is full; it has no status of its own for it."""
    return "maximum queue size" in said.lower()


def _sentence(said: str) -> str:
    """Triton's words on one line: without the ID it was given and without a model's stack trace,
    which names files on its machine."""
    said = _REQUEST_ID_PREFIX.sub("", said).split("\n\nAt:", 1)[0]
    line = " ".join(said.split()) or "gave no reason"
    return line if len(line) <= _SENTENCE_CHARS_MAX else line[: _SENTENCE_CHARS_MAX - 1] + "…"
