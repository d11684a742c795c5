"""Reading a request's body off the socket, within bounds.

Owns: the size limit, the least pace, bounded decompression, the splitting of a multipart form into
parts, and that no large body is copied on its way into memory.
Does not know: what the body means.
"""

from __future__ import annotations

import asyncio
import io
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from email.message import Message
from types import TracebackType
from typing import Final

import aiohttp
from aiohttp import hdrs, web
from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from gateway.dialects.wire import Part
from gateway.errors import Code, RequestRejected
from gateway.inflate import CODINGS, InflateError, Inflater
from gateway.lifting import LiftedText, Lifter
from gateway.protocol import Incoming

_IDENTITY: Final = ("", "identity")
#: How much base64 is decoded before others have their turn, bytes of text; a quarter of what comes
#: at once from a client that is near.
_STEP_BYTES: Final = 64 * 1024
_TRANSFER_ENCODINGS: Final = ("7bit", "8bit", "binary")


@dataclass(frozen=True, slots=True)
class Pace:
    """How slowly a body may arrive: within ``timeout_s`` seconds, and one more for each
    ``bytes_per_s_min`` bytes that did."""

    timeout_s: float
    bytes_per_s_min: int


def arrived(request: Incoming, bytes_max: int) -> bytes | None:
    """The whole body, where it came along with its head and nothing has to be done to it, as with
    most that are small; else ``None``: then it is for ``read_body``.

    Raises:
        RequestRejected: longer than ``bytes_max`` (413).
    """
    headers = request.headers
    if hdrs.CONTENT_ENCODING in headers or hdrs.EXPECT in headers:
        return None
    body = request.arrived()
    if body is not None and len(body) > bytes_max:
        raise _too_large(bytes_max)
    return body


async def read_body(request: Incoming, *, bytes_max: int, pace: Pace) -> bytes:
    """The whole body, inflated.

    Raises:
        RequestRejected: longer than ``bytes_max`` before or after inflating (413), compressed in an
            unknown way (415), not compressed as it says, cut short, or too slow (408).
    """
    # Grows where it stands, and is not copied at the end.
    body = io.BytesIO()
    async with _Pacer(pace) as pacer, aclosing(_pieces(request, bytes_max, pacer)) as arriving:
        async for piece in arriving:
            body.write(piece)
    return body.getvalue()


async def read_json(request: Incoming, *, bytes_max: int, pace: Pace) -> bytes | LiftedText:
    """As ``read_body``, for a text that may hold media as base64: long strings of it are decoded
    as they arrive."""
    lifter = Lifter(secrets.token_hex(16))
    async with _Pacer(pace) as pacer, aclosing(_pieces(request, bytes_max, pacer)) as arriving:
        async for piece in arriving:
            lifter.feed(piece[:_STEP_BYTES])
            for start in range(_STEP_BYTES, len(piece), _STEP_BYTES):
                await asyncio.sleep(0)
                lifter.feed(piece[start : start + _STEP_BYTES])
    return lifter.finish()


async def read_form(request: Incoming, *, bytes_max: int, parts_max: int, pace: Pace) -> list[Part]:
    """The parts of a multipart form, in their order.

    Raises:
        RequestRejected: as ``read_body``; no boundary; too many parts; a part that has no name, is
            encoded, or is a form itself.
    """
    _, options = parse_options_header(request.headers.get(hdrs.CONTENT_TYPE, ""))
    boundary = options.get("boundary")
    if not boundary:
        raise RequestRejected("the multipart body's Content-Type names no boundary")
    parts: list[Part] = []
    segment: MultipartSegment | None = None
    data = io.BytesIO()
    try:
        with PushMultipartParser(boundary, max_segment_count=parts_max) as parser:
            async with (
                _Pacer(pace) as pacer,
                aclosing(_pieces(request, bytes_max, pacer)) as arriving,
            ):
                async for piece in arriving:
                    for event in parser.parse(piece):
                        if isinstance(event, MultipartSegment):
                            segment = _checked(event, len(parts) + 1)
                        elif event:
                            data.write(event)
                        elif segment is not None:
                            content = data.getvalue()
                            parts.append(Part(segment.name or "", content, _filename(segment)))
                            data = io.BytesIO()
    except ParserLimitReached as error:
        raise RequestRejected(
            f"the form has more than {parts_max} parts (parts_max), or overlong part headers",
            code=Code.TOO_LARGE,
        ) from error
    except (MultipartError, UnicodeError) as error:
        raise RequestRejected(
            "the multipart body cannot be read: it is not well-formed, or was cut short"
        ) from error
    return parts


def _checked(segment: MultipartSegment, number: int) -> MultipartSegment:
    if not segment.name:
        raise RequestRejected(f"form part {number} has no name")
    if (segment.content_type or "").startswith("multipart/"):
        raise RequestRejected(f'form part "{segment.name[:80]}" is a multipart body itself')
    for header, plain in (
        (hdrs.CONTENT_TRANSFER_ENCODING, _TRANSFER_ENCODINGS),
        (hdrs.CONTENT_ENCODING, _IDENTITY),
    ):
        encoding = str(segment.header(header, plain[0])).strip().lower()
        if encoding not in plain:
            raise RequestRejected(
                f'form part "{segment.name[:80]}": {header} {encoding[:40]} is not supported; '
                "send its bytes as they are",
                code=Code.UNSUPPORTED_MEDIA_TYPE,
            )
    return segment


def _filename(segment: MultipartSegment) -> str | None:
    """The part's file name; some clients write one that is not ASCII in the form of RFC 2231."""
    if segment.filename is not None:
        return str(segment.filename)
    header = Message()
    header[hdrs.CONTENT_DISPOSITION] = segment.header(hdrs.CONTENT_DISPOSITION, "")
    try:
        return header.get_filename()
    except ValueError:  # its character set has no name that one could have
        return None


class _Pacer:
    """The limit of one body's time, which what has arrived moves on. Entered around the whole
    reading of it.

    Raises:
        RequestRejected: on leaving, where the time was over (408).
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._ends_at = asyncio.get_running_loop().time() + pace.timeout_s
        self._timeout = asyncio.timeout_at(self._ends_at)
        self._received = 0
        self._granted_s = 0

    async def __aenter__(self) -> _Pacer:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError as late:
            limit_s = self._pace.timeout_s + self._granted_s
            raise RequestRejected(
                f"the request body did not arrive within {limit_s:g} s (body_timeout_s, and one "
                f"more for each {self._pace.bytes_per_s_min} bytes: body_bytes_per_s_min)",
                code=Code.REQUEST_TIMEOUT,
            ) from late

    def received(self, count: int) -> None:
        """``count`` bytes more have arrived."""
        self._received += count
        granted_s = self._received // self._pace.bytes_per_s_min
        if granted_s > self._granted_s and not self._timeout.expired():
            self._granted_s = granted_s
            self._timeout.reschedule(self._ends_at + granted_s)


async def _pieces(request: Incoming, bytes_max: int, pacer: _Pacer) -> AsyncGenerator[bytes]:
    """The body as it arrives and inflated, of at most ``bytes_max`` bytes either way."""
    if request.content_length is not None and request.content_length > bytes_max:
        raise _too_large(bytes_max)
    _continue(request)
    coding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    inflater = None
    if coding not in _IDENTITY:
        if coding not in CODINGS:
            raise RequestRejected(
                f'the request body\'s Content-Encoding "{coding[:40]}" is not gzip or deflate',
                code=Code.UNSUPPORTED_MEDIA_TYPE,
            )
        inflater = Inflater(coding)
    received = inflated = 0
    try:
        async for piece in request.content.iter_any():
            received += len(piece)
            pacer.received(len(piece))
            if received > bytes_max:
                raise _too_large(bytes_max)
            if inflater is None:
                yield piece
                continue
            for part in inflater.feed(piece):
                inflated += len(part)
                if inflated > bytes_max:
                    raise _too_large(bytes_max)
                yield part
                await asyncio.sleep(0)
        if inflater is not None and not inflater.finished:
            raise InflateError("the compressed body was cut short")
    except InflateError as error:
        raise RequestRejected(f"the request body: {error}") from error
    except (aiohttp.ClientPayloadError, web.RequestPayloadError) as error:
        raise RequestRejected("the request body was cut short") from error


def _continue(request: Incoming) -> None:
    """Answer ``Expect: 100-continue``: some clients send no body before they read this."""
    expected = request.headers.get(hdrs.EXPECT, "").strip().lower()
    if not expected:
        return
    if expected != "100-continue":
        raise RequestRejected("Expect: only 100-continue is understood", status=417)
    if request.protocol.transport is not None:
        request.protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _too_large(limit: int) -> RequestRejected:
    return RequestRejected(
        f"the request body is longer than {limit} bytes (body_bytes_max)", code=Code.TOO_LARGE
    )
