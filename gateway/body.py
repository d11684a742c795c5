"""Reading a request's body off the socket, within bounds.

Owns: the size limit, bounded decompression, and the splitting of a multipart form into parts.
Does not know: what the body means.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
from aiohttp import hdrs, web
from aiohttp.http_exceptions import BadHttpMessage

from gateway.dialects.wire import Part
from gateway.errors import Code, RequestRejected
from gateway.inflate import InflateError, Inflater

_CHUNK_BYTES: Final = 64 * 1024


def _too_large(limit: int) -> RequestRejected:
    return RequestRejected(
        f"the request body is longer than {limit} bytes (body_bytes_max)", code=Code.TOO_LARGE
    )


async def read_body(request: web.BaseRequest, *, bytes_max: int) -> bytes:
    """The whole body, inflated.

    Raises:
        RequestRejected: longer than ``bytes_max`` before or after inflating (413), compressed in an
            unknown way (415), not compressed as it says, or cut short.
    """
    if request.content_length is not None and request.content_length > bytes_max:
        raise _too_large(bytes_max)
    length = 0
    pieces = []
    async for piece in _pieces(request):
        length += len(piece)
        if length > bytes_max:
            raise _too_large(bytes_max)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _pieces(request: web.BaseRequest) -> AsyncIterator[bytes]:
    coding = request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower()
    try:
        if coding in ("", "identity"):
            async for piece in request.content.iter_any():
                yield piece
            return
        inflater = Inflater(coding)
        async for piece in request.content.iter_any():
            for inflated in inflater.feed(piece):
                yield inflated
                await asyncio.sleep(0)
        if not inflater.finished:
            raise InflateError("the compressed body was cut short")
    except InflateError as error:
        code = Code.UNSUPPORTED_MEDIA_TYPE if "content coding" in str(error) else Code.BAD_REQUEST
        raise RequestRejected(f"the request body: {error}", code=code) from error
    except (aiohttp.ClientPayloadError, web.RequestPayloadError) as error:
        raise RequestRejected("the request body was cut short") from error


async def read_form(request: web.BaseRequest, *, bytes_max: int, parts_max: int) -> list[Part]:
    """The parts of a multipart form, in their order.

    Raises:
        RequestRejected: as ``read_body``; no boundary; too many parts; a part without a name.
    """
    if request.content_length is not None and request.content_length > bytes_max:
        raise _too_large(bytes_max)
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
        raise RequestRejected(
            "a multipart body may not be compressed", code=Code.UNSUPPORTED_MEDIA_TYPE
        )
    parts: list[Part] = []
    left = bytes_max
    try:
        reader = aiohttp.MultipartReader(request.headers, request.content)
        while (part := await reader.next()) is not None:
            if len(parts) == parts_max:
                raise RequestRejected(
                    f"the form has more than {parts_max} parts (parts_max)", code=Code.TOO_LARGE
                )
            if isinstance(part, aiohttp.MultipartReader):
                raise RequestRejected("the form has a multipart body inside a part")
            if not part.name:
                raise RequestRejected(f"form part {len(parts) + 1} has no name")
            pieces = []
            while piece := await part.read_chunk(_CHUNK_BYTES):
                left -= len(piece)
                if left < 0:
                    raise _too_large(bytes_max)
                pieces.append(bytes(piece))
            parts.append(Part(part.name, b"".join(pieces), part.filename))
    except (ValueError, AssertionError, BadHttpMessage) as error:
        raise RequestRejected(f"the multipart body cannot be read: {_sentence(error)}") from error
    except (aiohttp.ClientPayloadError, web.RequestPayloadError) as error:
        raise RequestRejected("the request body was cut short") from error
    return parts


def _sentence(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if "boundary missed" in text:
        return "its Content-Type names no boundary"
    return text[:200]
