"""Triton over gRPC.

Owns: the messages, and what gRPC's codes and words, and those of the network before it, mean.
Does not know: where tensors come from and what becomes of them, what the messages go over.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2

from gateway import __version__
from gateway.upstreams.dialing import tls_words
from gateway.upstreams.grpc_call import CallFailed, Code, Lost, MessageTooLong, NotGrpc
from gateway.upstreams.grpc_client import Channel
from gateway.upstreams.http2 import field
from gateway.upstreams.triton_messages import infer_request
from gateway.upstreams.triton_wire import Inference, Refused, Status, WireTensor, is_busy

_STATUSES: Final = {
    Code.NOT_FOUND: Status.NOT_FOUND,
    Code.INVALID_ARGUMENT: Status.INVALID_ARGUMENT,
    Code.UNIMPLEMENTED: Status.UNIMPLEMENTED,
    Code.DEADLINE_EXCEEDED: Status.DEADLINE,
    Code.UNAUTHENTICATED: Status.UNAUTHORIZED,
    Code.PERMISSION_DENIED: Status.UNAUTHORIZED,
    Code.UNAVAILABLE: Status.UNAVAILABLE,
}
#: What a call can end with that is not the project's.
_FAILURES: Final = (
    CallFailed,
    DecodeError,
    Lost,
    MessageTooLong,
    NotGrpc,
    OSError,
    UnicodeError,
)
_SERVICE: Final = "/inference.GRPCInferenceService/"
_METADATA_KEY: Final = re.compile(r"(?!grpc-)[a-z0-9_.-]+(?<!-bin)")
_METADATA_VALUE: Final = re.compile(r"[\x20-\x7e]*")


class GrpcTransport:
    """See ``Transport``.

    Args:
        host, port: where it is, without brackets.
        tls: how to encrypt; ``None``: not at all.
        server_name: the name that its certificate must have, where that is not its host.
        answer_bytes_max: the longest message that is received, bytes.
        connect_s: seconds to wait for a connection where no call says otherwise.
        control_s: seconds to wait for anything but an inference.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        server_name: str | None = None,
        answer_bytes_max: int,
        connect_s: float,
        control_s: float,
    ) -> None:
        self._channel = channel = Channel(
            host,
            port,
            tls=tls,
            server_name=server_name,
            agent=f"pipeline-gateway/{__version__}",
            message_bytes_max=answer_bytes_max,
        )
        self._infer = channel.method(f"{_SERVICE}ModelInfer")
        self._stream = channel.method(f"{_SERVICE}ModelStreamInfer")
        self._connect_s = connect_s
        self._control_s = control_s
        self._answer_bytes_max = answer_bytes_max

    async def ready(self) -> bool:
        """See ``Transport.ready``."""
        answer = service_pb2.ServerReadyResponse()
        await self._control("ServerReady", service_pb2.ServerReadyRequest(), answer, "")
        return bool(answer.ready)

    async def metadata(self, model: str, request_id: str) -> Any:
        """See ``Transport.metadata``."""
        answer = service_pb2.ModelMetadataResponse()
        request = service_pb2.ModelMetadataRequest(name=model)
        await self._control("ModelMetadata", request, answer, request_id)
        return _as_json(answer)

    async def config(self, model: str, request_id: str) -> Any:
        """See ``Transport.config``."""
        answer = service_pb2.ModelConfigResponse()
        request = service_pb2.ModelConfigRequest(name=model)
        await self._control("ModelConfig", request, answer, request_id)
        return _as_json(answer.config)

    async def _control(self, name: str, request: Message, answer: Message, request_id: str) -> None:
        """Ask anything but an inference; ``answer`` is filled in."""
        method = self._channel.method(_SERVICE + name)
        try:
            async with asyncio.timeout(self._control_s) as limit:
                data = await self._channel.unary(
                    method,
                    _metadata(request_id, {}),
                    [request.SerializeToString()],
                    connect_s=self._connect_s,
                )
            answer.ParseFromString(data)
        except _FAILURES as error:
            if limit.expired():
                said = f"sent nothing within {self._control_s:g} s"
                raise Refused(Status.DEADLINE, said) from error
            raise self._translated(error, self._connect_s) from error

    async def infer(self, inference: Inference) -> list[WireTensor]:
        """See ``Transport.infer``."""
        try:
            data = await self._channel.unary(
                self._infer,
                _metadata(inference.request_id, inference.headers),
                _message(inference),
                connect_s=inference.connect_s,
            )
            return _tensors(service_pb2.ModelInferResponse.FromString(data))
        except _FAILURES as error:
            raise self._translated(error, inference.connect_s) from error

    async def stream(self, inference: Inference) -> AsyncGenerator[list[WireTensor]]:
        """See ``Transport.stream``. Closing it cancels the inference."""
        messages = self._channel.stream(
            self._stream,
            _metadata(inference.request_id, inference.headers),
            _message(inference, final_response=True),
            connect_s=inference.connect_s,
        )
        try:
            async with aclosing(messages):
                async for data in messages:
                    response = service_pb2.ModelStreamInferResponse.FromString(data)
                    if response.error_message:
                        raise Refused(Status.IN_STREAM, response.error_message)
                    answer = response.infer_response
                    if answer.outputs:
                        yield _tensors(answer)
                    if _is_final(answer):
                        return
        except _FAILURES as error:
            raise self._translated(error, inference.connect_s) from error

    async def close(self) -> None:
        """See ``Transport.close``."""
        await self._channel.close()

    def _translated(self, error: Exception, connect_s: float) -> Refused:
        """The one place where what is not the project's becomes it."""
        match error:
            case CallFailed():
                return _refused(error.code, error.said)
            case Lost(__cause__=ssl.SSLError()):
                status, said = Status.UNREACHABLE, tls_words(error)
            case Lost():
                status, said = Status.BROKEN, "broke off in mid-answer"
            case MessageTooLong():
                bound = f"answer_bytes_max ({self._answer_bytes_max} bytes)"
                status, said = Status.TOO_LARGE, f"its answer is longer than {bound}"
            case DecodeError():
                status, said = Status.UNREADABLE, "its answer is no message of Triton's"
            case TimeoutError(errno=None):
                said = f"no connection within {connect_s:g} s (connect_s)"
                status = Status.DEADLINE
            # What the network says names addresses, which are nobody's business.
            case socket.gaierror() | UnicodeError():
                status, said = Status.UNREACHABLE, "its host name does not resolve"
            case ssl.SSLError():
                status, said = Status.UNREACHABLE, tls_words(error)
            case OSError():
                reason = f" ({os.strerror(error.errno)})" if error.errno else ""
                status, said = Status.UNREACHABLE, f"cannot be reached{reason}"
            case _:
                status, said = Status.UNREADABLE, str(error)
        return Refused(status, said)


def _refused(code: Code, said: str) -> Refused:
    """What gRPC's codes mean."""
    if code is Code.RESOURCE_EXHAUSTED or is_busy(said):
        return Refused(Status.BUSY, said)
    if code is Code.CANCELLED:
        return Refused(Status.BROKEN, "broke off")
    return Refused(_STATUSES.get(code, Status.INTERNAL), said)


def _metadata(request_id: str, headers: Mapping[str, str]) -> bytes:
    """The fields of a header block for what is let through of ``headers``, and the ID."""
    written = b""
    if request_id and _METADATA_VALUE.fullmatch(request_id):
        written = field(b"x-request-id", request_id.encode())
    for key, value in headers.items():
        if (
            value
            and key != "x-request-id"
            and _METADATA_KEY.fullmatch(key)
            and _METADATA_VALUE.fullmatch(value)
        ):
            written += field(key.encode(), value.encode())
    return written


def _message(inference: Inference, *, final_response: bool = False) -> list[bytes]:
    return infer_request(
        inference.model.name,
        inference.request_id,
        inference.inputs,
        final_response=final_response,
    )


def _tensors(answer: Any) -> list[WireTensor]:
    outputs, contents = answer.outputs, answer.raw_output_contents
    if len(contents) != len(outputs):
        raise Refused(Status.UNREADABLE, "its answer's tensors are not in the binary form")
    return [
        WireTensor(output.name, output.datatype, tuple(output.shape), data)
        for output, data in zip(outputs, contents, strict=True)
    ]


def _is_final(answer: Any) -> bool:
    parameters = answer.parameters
    return "triton_final_response" in parameters and parameters["triton_final_response"].bool_param


def _as_json(message: Message) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
