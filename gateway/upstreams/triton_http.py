"""Triton over HTTP: the binary tensor extension, and ``generate_stream`` for decoupled models.

Owns: the two requests' form, reading their answers under bounds, and what HTTP's statuses mean.
Does not know: where tensors come from and what becomes of them.

``generate_stream`` speaks JSON only, and makes shapes up by itself: it carries text, not media, and
not every shape. What it cannot carry is refused with a word about gRPC, which can. A closed
connection stops a stream's model; one that answers once works on to its end (seen with Triton
2.51), where over gRPC it is cancelled.
"""

from __future__ import annotations

import asyncio
import math
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec

from gateway.errors import Code, EventTooLarge, RequestRejected
from gateway.sse import Decoder, is_event_stream
from gateway.upstreams.dialing import tls_words
from gateway.upstreams.triton_codec import TensorError, decode, encode
from gateway.upstreams.triton_wire import (
    Inference,
    InputTensor,
    Refused,
    Status,
    WireTensor,
    is_busy,
)

#: The most that is read of anything but a model's outputs, bytes.
_CONTROL_BYTES_MAX: Final = 4 * 1024 * 1024
_HEADER_LENGTH: Final = "inference-header-content-length"
_PIECE_BYTES: Final = 256 * 1024

_STATUSES: Final = {
    400: Status.INVALID_ARGUMENT,
    401: Status.UNAUTHORIZED,
    403: Status.UNAUTHORIZED,
    404: Status.NOT_FOUND,
    429: Status.BUSY,
    501: Status.UNIMPLEMENTED,
    503: Status.UNAVAILABLE,
    504: Status.DEADLINE,
}


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: Any = None


class _Answer(msgspec.Struct):
    outputs: list[_Output] = []


class HttpTransport:
    """See ``Transport``.

    Args:
        base: ``http://host:port`` with any path before ``/v2``, no slash at the end.
        session: its ``auto_decompress`` must be off; it is not closed here.
        tls: whom to trust over https, other than the system's authorities, and what to show.
        server_name: the name that its certificate must have, where that is not its host.
        answer_bytes_max, event_bytes_max: the longest answer and SSE event that are read, bytes.
        connect_s: seconds to wait for a connection where no call says otherwise.
        control_s: seconds to wait for anything but an inference.
    """

    def __init__(
        self,
        base: str,
        session: aiohttp.ClientSession,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        answer_bytes_max: int,
        event_bytes_max: int,
        connect_s: float,
        control_s: float,
    ) -> None:
        self._base = base
        self._session = session
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._server_name = server_name
        self._answer_bytes_max = answer_bytes_max
        self._event_bytes_max = event_bytes_max
        self._connect_s = connect_s
        self._control_s = control_s

    async def ready(self) -> bool:
        """See ``Transport.ready``."""
        status, _ = await self._control("/v2/health/ready", "")
        return status == 200

    async def metadata(self, model: str, request_id: str) -> Any:
        """See ``Transport.metadata``."""
        return _parse(*await self._control(_path(model), request_id))

    async def config(self, model: str, request_id: str) -> Any:
        """See ``Transport.config``."""
        return _parse(*await self._control(f"{_path(model)}/config", request_id))

    async def _control(self, path: str, request_id: str) -> tuple[int, bytes]:
        try:
            async with (
                asyncio.timeout(self._control_s),
                self._request("GET", path, request_id, self._connect_s) as response,
            ):
                return response.status, await _read_control(response)
        except TimeoutError as error:
            raise Refused(Status.DEADLINE, f"sent nothing within {self._control_s:g} s") from error

    async def infer(self, inference: Inference) -> list[WireTensor]:
        """See ``Transport.infer``."""
        header = msgspec.json.encode(
            {
                "id": inference.request_id,
                "inputs": [
                    {
                        "name": tensor.name,
                        "datatype": tensor.datatype,
                        "shape": tensor.shape,
                        "parameters": {"binary_data_size": tensor.size},
                    }
                    for tensor in inference.inputs
                ],
                "parameters": {"binary_data_output": True},
            }
        )
        async with self._post(
            inference,
            "infer",
            [header, *(segment for tensor in inference.inputs for segment in tensor.segments)],
            {"content-type": "application/octet-stream", _HEADER_LENGTH: str(len(header))},
        ) as response:
            body = await _read(
                response,
                self._answer_bytes_max,
                f"answer_bytes_max ({self._answer_bytes_max} bytes)",
            )
            if response.status != 200:
                raise _refused(response.status, body)
            return _read_tensors(body, response.headers.get(_HEADER_LENGTH))

    async def stream(self, inference: Inference) -> AsyncGenerator[list[WireTensor]]:
        """See ``Transport.stream``. Closing it closes the connection."""
        body = msgspec.json.encode(_generate_body(inference))
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        async with self._post(inference, "generate_stream", [body], headers) as response:
            if not is_event_stream(response.headers.get("Content-Type", "")):
                if response.status == 200:
                    raise Refused(Status.UNREADABLE, "its answer is no event stream")
                raise _refused(response.status, await _read_control(response))
            decoder = Decoder(self._event_bytes_max)
            try:
                async for piece in response.content.iter_any():
                    for frame in decoder.feed(piece):
                        yield _read_event(frame.data, inference)
            except EventTooLarge as error:
                raise Refused(Status.UNREADABLE, error.message) from error
            if decoder.pending:
                raise Refused(Status.UNREADABLE, "its stream was cut in mid-event")

    async def close(self) -> None:
        """See ``Transport.close``: the session belongs to whoever made it."""

    @asynccontextmanager
    async def _post(
        self, inference: Inference, action: str, segments: list[bytes], headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        length = sum(map(len, segments))
        async with self._request(
            "POST",
            f"{_path(inference.model.name)}/{action}",
            inference.request_id,
            inference.connect_s,
            headers={**inference.headers, **headers, "content-length": str(length)},
            data=_send(segments),
        ) as response:
            yield response

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, request_id: str, connect_s: float, **more: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request and its answer, left unread. The one place where the HTTP client's exceptions
        become the project's."""
        headers = {**more.pop("headers", {}), "accept-encoding": "identity"}
        if request_id:
            headers["x-request-id"] = request_id
        timeout = aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s)
        try:
            response = await self._session.request(
                method,
                self._base + path,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                ssl=self._tls,
                server_hostname=self._server_name,
                **more,
            )
            try:
                coding = response.headers.get("Content-Encoding", "identity").lower()
                if coding != "identity":
                    raise Refused(
                        Status.UNREADABLE,
                        f'sent content coding "{coding[:40]}" without being asked',
                    )
                yield response
            finally:
                # An answer that was not read to its end ends with its connection: that is how
                # Triton learns that nobody waits any more.
                if not response.content.at_eof():
                    response.close()
        except aiohttp.ClientError as error:
            raise _broken(error, connect_s) from error


async def _read(response: aiohttp.ClientResponse, bytes_max: int, bound: str) -> bytes:
    """The body. Raises Refused if it is longer than ``bytes_max``, which the error calls
    ``bound``."""
    pieces: list[bytes] = []
    length = 0
    async for piece in response.content.iter_any():
        length += len(piece)
        if length > bytes_max:
            raise Refused(Status.TOO_LARGE, f"its answer is longer than {bound}")
        pieces.append(piece)
    return b"".join(pieces)


async def _read_control(response: aiohttp.ClientResponse) -> bytes:
    """The body of an answer that holds no outputs."""
    bound = f"{_CONTROL_BYTES_MAX} bytes, though it holds no outputs"
    return await _read(response, _CONTROL_BYTES_MAX, bound)


async def _send(segments: Sequence[bytes]) -> AsyncIterator[memoryview]:
    """The segments as they are, in pieces small enough not to hold up others."""
    for segment in segments:
        view = memoryview(segment)
        for start in range(0, len(view), _PIECE_BYTES):
            yield view[start : start + _PIECE_BYTES]
            await asyncio.sleep(0)


def _path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _parse(status: int, body: bytes) -> Any:
    if status != 200:
        raise _refused(status, body)
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise Refused(Status.UNREADABLE, "its answer is not JSON") from error


def _refused(status: int, body: bytes) -> Refused:
    """What a status other than 200 means; ``body`` is ``{"error": "…"}`` where Triton made it."""
    try:
        said = str(msgspec.json.decode(body)["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        said = f"answered {status}"  # a proxy's page, not Triton's words
    if is_busy(said):
        return Refused(Status.BUSY, said)
    return Refused(_STATUSES.get(status, Status.INTERNAL), said)


def _read_tensors(body: bytes, header_length: str | None) -> list[WireTensor]:
    """The tensors of an answer: JSON, then each output's elements one after the other."""
    length = len(body)
    if header_length is not None:
        if not header_length.isdigit() or int(header_length) > len(body):
            raise Refused(Status.UNREADABLE, f"its {_HEADER_LENGTH} does not fit its answer")
        length = int(header_length)
    try:
        answer = msgspec.json.decode(body[:length], type=_Answer)
        at = length
        tensors = []
        for output in answer.outputs:
            size = output.parameters.get("binary_data_size")
            if not isinstance(size, int) or not 0 <= size <= len(body) - at:
                raise Refused(Status.UNREADABLE, f"output {output.name} is not in the binary form")
            data = body[at : at + size]
            at += size
            tensors.append(WireTensor(output.name, output.datatype, tuple(output.shape), data))
    except (ValueError, RecursionError) as error:
        raise Refused(
            Status.UNREADABLE, "its answer's header is not JSON as it should be"
        ) from error
    return tensors


def _generate_body(inference: Inference) -> dict[str, Any]:
    """The inputs as JSON fields. Raises RequestRejected for what they cannot carry."""
    body: dict[str, Any] = {}
    declared = {tensor.name: tensor.shape for tensor in inference.model.inputs}
    for tensor in inference.inputs:
        count = math.prod(tensor.shape)
        if tensor.shape != _spread(count, declared[tensor.name]):
            raise _needs_grpc(inference, tensor, f"has shape {list(tensor.shape)}")
        value = decode(tensor.name, tensor.datatype, [count], tensor.data)
        if any(isinstance(element, dict) for element in value):
            raise _needs_grpc(inference, tensor, "is not text")
        if tensor.datatype != "BYTES" and any(isinstance(element, str) for element in value):
            raise _needs_grpc(inference, tensor, "holds NaN or Infinity")
        body[tensor.name] = value
    body.setdefault("id", inference.request_id)
    return body


def _spread(count: int, dims: Sequence[int]) -> tuple[int, ...]:
    """The shape that Triton gives ``count`` elements of a JSON field: the last dimension that may
    have any size takes all that the fixed ones leave, the others become 1."""
    left = count // max(1, math.prod(dim for dim in dims if dim != -1))
    shape: list[int] = []
    for dim in reversed(dims):
        shape.insert(0, left if dim == -1 else dim)
        left = 1 if dim == -1 else left
    return tuple(shape)


def _needs_grpc(inference: Inference, tensor: InputTensor, why: str) -> RequestRejected:
    return RequestRejected(
        f"model {inference.model.name}'s input {tensor.name} {why}, which Triton's streaming over "
        "HTTP cannot carry: give this upstream a grpc:// url",
        code=Code.NOT_SUPPORTED,
    )


def _read_event(data: bytes, inference: Inference) -> list[WireTensor]:
    """The tensors of one event: the fields that are named like outputs of the model."""
    try:
        event = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise Refused(
            Status.UNREADABLE,
            "sent an event that is not JSON; pieces that are not text need a grpc:// url",
        ) from error
    if not isinstance(event, dict):
        raise Refused(Status.UNREADABLE, "sent an event that is not an object")
    outputs = {output.name: output.datatype for output in inference.model.outputs}
    if "error" in event and "error" not in outputs:
        raise Refused(Status.IN_STREAM, str(event["error"]))
    return [
        _event_tensor(name, datatype, event[name])
        for name, datatype in outputs.items()
        if name in event
    ]


def _event_tensor(name: str, datatype: str, value: Any) -> WireTensor:
    """A field of an event as a tensor: Triton writes all elements into one list, whatever their
    shape, and a single one without a list."""
    shape = [len(value)] if isinstance(value, list) else [1]
    try:
        encoded = encode(name, datatype, shape, value)
    except TensorError as error:
        raise Refused(Status.UNREADABLE, f"output {error}") from error
    return WireTensor(name, datatype, encoded.shape, encoded.data)


def _broken(error: aiohttp.ClientError, connect_s: float) -> Refused:
    match error:
        case aiohttp.ServerTimeoutError():
            return Refused(Status.DEADLINE, f"no connection within {connect_s:g} s (connect_s)")
        case aiohttp.ClientConnectorDNSError():
            return Refused(Status.UNREACHABLE, "its host name does not resolve")
        case aiohttp.ClientSSLError() | aiohttp.ClientOSError(__cause__=ssl.SSLError()):
            return Refused(Status.UNREACHABLE, tls_words(error))
        case aiohttp.ClientConnectorError():
            # Its own text names the address, which is nobody's business.
            reason = os.strerror(error.errno) if error.errno else "no connection"
            return Refused(Status.UNREACHABLE, f"cannot be reached ({reason})")
        case aiohttp.ServerDisconnectedError():
            return Refused(Status.BROKEN, "closed the connection before it answered")
        case aiohttp.ClientPayloadError() | aiohttp.ClientOSError():
            return Refused(Status.BROKEN, "broke off in mid-answer")
        case aiohttp.ClientResponseError():
            return Refused(Status.UNREADABLE, "its answer is not HTTP")
    return Refused(Status.BROKEN, f"failed ({type(error).__name__})")
