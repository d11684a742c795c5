"""Triton over gRPC.

Owns: one channel for the life of the process, its options, the messages, and what gRPC's codes and
words mean.
Does not know: where tensors come from and what becomes of them.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

# Its C core writes lines of its own to stderr about what it also reports by exceptions; this is
# read once, when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio
from google.protobuf import json_format
from google.protobuf.message import Message
from msgspec.structs import force_setattr
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.model import Media
from gateway.upstreams.triton_codec import Buffer
from gateway.upstreams.triton_messages import infer_request
from gateway.upstreams.triton_wire import Inference, Refused, Status, WireTensor, is_busy

_OPTIONS: Final = (
    # Triton takes a connection for an attacker's that is pinged more than every five minutes while
    # a model works in silence, and closes it with the calls on it.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # A Triton that comes back is found at once; gRPC's own steps go up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    # How much may be sent is bounded before a message is made.
    ("grpc.max_send_message_length", -1),
    # No proxies from the environment.
    ("grpc.enable_http_proxy", 0),
)

_STATUSES: Final = {
    grpc.StatusCode.NOT_FOUND: Status.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT: Status.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED: Status.UNIMPLEMENTED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Status.DEADLINE,
    grpc.StatusCode.UNAUTHENTICATED: Status.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: Status.UNAUTHORIZED,
}
#: What gRPC says of a call that took longer than the time it was given here.
_OUT_OF_TIME: Final = "Deadline Exceeded"
_SERVICE: Final = "/inference.GRPCInferenceService/"
#: A message from this size on is put together in a thread, where it does not hold up the loop.
_LARGE_BYTES: Final = 1024 * 1024
_METADATA_KEY: Final = re.compile(r"(?!grpc-)[a-z0-9_.-]+(?<!-bin)")
_METADATA_VALUE: Final = re.compile(r"[\x20-\x7e]*")


class GrpcTransport:
    """See ``Transport``.

    Args:
        target: ``host:port``.
        tls: whether to encrypt, trusting the usual authorities.
        answer_bytes_max: the longest message that is received, bytes.
        connect_s: seconds to wait for a connection where no call says otherwise.
        control_s: seconds to wait for anything but an inference.
    """

    def __init__(
        self, target: str, *, tls: bool, answer_bytes_max: int, connect_s: float, control_s: float
    ) -> None:
        options = [*_OPTIONS, ("grpc.max_receive_message_length", answer_bytes_max)]
        self._channel = (
            grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
            if tls
            else grpc.aio.insecure_channel(target, options=options)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        # The messages that carry tensors are written here and not by the generated classes.
        self._infer = self._channel.unary_unary(
            f"{_SERVICE}ModelInfer",
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        self._stream = self._channel.stream_stream(
            f"{_SERVICE}ModelStreamInfer",
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        self._connect_s = connect_s
        self._control_s = control_s
        self._answer_bytes_max = answer_bytes_max

    async def ready(self) -> bool:
        """See ``Transport.ready``."""
        answer = await self._control(self._stub.ServerReady, service_pb2.ServerReadyRequest(), "")
        return bool(answer.ready)

    async def metadata(self, model: str, request_id: str) -> Any:
        """See ``Transport.metadata``."""
        request = service_pb2.ModelMetadataRequest(name=model)
        return _as_json(await self._control(self._stub.ModelMetadata, request, request_id))

    async def config(self, model: str, request_id: str) -> Any:
        """See ``Transport.config``."""
        request = service_pb2.ModelConfigRequest(name=model)
        return _as_json((await self._control(self._stub.ModelConfig, request, request_id)).config)

    async def _control(self, method: Any, request: Message, request_id: str) -> Any:
        await self._connect(self._connect_s)
        metadata = _metadata(request_id, {})
        try:
            return await self._answer(method(request, metadata=metadata, timeout=self._control_s))
        except Refused as refused:
            if refused.said != _OUT_OF_TIME:
                raise
            raise Refused(
                Status.DEADLINE, f"sent nothing within {self._control_s:g} s"
            ) from refused

    async def infer(self, inference: Inference) -> list[WireTensor]:
        """See ``Transport.infer``."""
        await self._connect(inference.connect_s)
        metadata = _metadata(inference.request_id, inference.headers)
        message = await _message(inference)
        del inference  # and with it the inputs, which the message has now
        return _tensors(await self._answer(self._infer(message, metadata=metadata)))

    async def stream(self, inference: Inference) -> AsyncGenerator[list[WireTensor]]:
        """See ``Transport.stream``. Closing it cancels the inference."""
        await self._connect(inference.connect_s)
        metadata = _metadata(inference.request_id, inference.headers)
        message = await _message(inference, final_response=True)
        del inference
        call = self._stream(metadata=metadata)
        try:
            # A call that is over before it was written to tells why when it is read.
            with suppress(asyncio.InvalidStateError):
                await self._answer(call.write(message))
                await self._answer(call.done_writing())
            while True:
                response = await self._answer(call.read())
                if response is grpc.aio.EOF:
                    return
                if response.error_message:
                    raise Refused(Status.IN_STREAM, response.error_message)
                answer = response.infer_response
                if answer.outputs:
                    yield _tensors(answer)
                if _is_final(answer):
                    return
        finally:
            call.cancel()

    async def close(self) -> None:
        """See ``Transport.close``."""
        await self._channel.close()

    async def _connect(self, connect_s: float) -> None:
        """Wait while a connection is being made. Whether it was, the call itself then tells."""
        waiting = (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING)
        state = self._channel.get_state(try_to_connect=True)
        if state not in waiting:
            return
        try:
            async with asyncio.timeout(connect_s):
                while state in waiting:
                    await self._channel.wait_for_state_change(state)
                    state = self._channel.get_state(try_to_connect=True)
        except TimeoutError as error:
            raise Refused(
                Status.DEADLINE, f"no connection within {connect_s:g} s (connect_s)"
            ) from error

    async def _answer(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._refused(error.code(), error.details() or "") from error

    def _refused(self, code: grpc.StatusCode, details: str) -> Refused:
        """The one place where gRPC's codes become the project's."""
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            return Refused(
                Status.TOO_LARGE,
                f"its answer is longer than answer_bytes_max ({self._answer_bytes_max} bytes)",
            )
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED or is_busy(details):
            return Refused(Status.BUSY, details)
        if code is grpc.StatusCode.UNAVAILABLE:
            return _unavailable(details)
        if code is grpc.StatusCode.CANCELLED:
            return Refused(Status.BROKEN, "broke off")
        return Refused(_STATUSES.get(code, Status.INTERNAL), details)


def _unavailable(details: str) -> Refused:
    """The network's refusals and Triton's own share a code. The network's words name addresses,
    which are nobody's business."""
    if "failed to connect to all addresses" in details:
        for reason in ("Connection refused", "No route to host", "Network is unreachable"):
            if reason in details:
                return Refused(Status.UNREACHABLE, f"cannot be reached ({reason})")
        return Refused(Status.UNREACHABLE, "cannot be reached")
    if "errors resolving" in details or "DNS resolution failed" in details:
        return Refused(Status.UNREACHABLE, "its host name does not resolve")
    if any(words in details for words in ("Connection reset", "Socket closed", "GOAWAY")):
        return Refused(Status.BROKEN, "broke off in mid-answer")
    return Refused(Status.UNAVAILABLE, details)


def _metadata(request_id: str, headers: Mapping[str, str]) -> list[tuple[str, str]]:
    pairs = {**headers, "x-request-id": request_id}
    return [
        (key, value)
        for key, value in pairs.items()
        if value and _METADATA_KEY.fullmatch(key) and _METADATA_VALUE.fullmatch(value)
    ]


async def _message(inference: Inference, *, final_response: bool = False) -> bytes:
    """The request as it is sent: the one copy that is made of its tensors."""
    segments = infer_request(
        inference.model.name,
        inference.request_id,
        inference.inputs,
        final_response=final_response,
    )
    if inference.bytes_total < _LARGE_BYTES:
        return b"".join(segments)
    return await asyncio.to_thread(_joined, segments, inference.media)


def _joined(segments: list[Buffer], media: Sequence[Media]) -> bytes:
    """``segments`` as one message, in which the ``media`` among them find their bytes from now on:
    while it is sent, they need not stand in memory twice."""
    message = b"".join(segments)
    whole, at = memoryview(message), 0
    for segment in segments:
        for item in media:
            if item.data is segment:
                force_setattr(item, "data", whole[at : at + len(segment)])
        at += len(segment)
    segments.clear()  # a pool's thread lets go of what it was given only when it runs again
    return message


def _tensors(answer: Any) -> list[WireTensor]:
    if len(answer.raw_output_contents) != len(answer.outputs):
        raise Refused(Status.UNREADABLE, "its answer's tensors are not in the binary form")
    return [
        WireTensor(output.name, output.datatype, tuple(output.shape), data)
        for output, data in zip(answer.outputs, answer.raw_output_contents, strict=True)
    ]


def _is_final(answer: Any) -> bool:
    parameters = answer.parameters
    return "triton_final_response" in parameters and parameters["triton_final_response"].bool_param


def _as_json(message: Message) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
