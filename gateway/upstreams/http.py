"""What the two remote HTTP APIs have in common: one POST, its errors, its bounded answer.

Owns: the request's headers and pieces, the translation of every failure of the HTTP client and of
every bad status into the project's errors, and the bounds on what is read.
Does not know: what either API means by its bodies.
"""

from __future__ import annotations

import asyncio
import binascii
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Final

import aiohttp
import msgspec
from multidict import CIMultiDict

from gateway import __version__
from gateway.errors import Code, UpstreamFailed, UpstreamTimeout
from gateway.inflate import InflateError, Inflater
from gateway.model import Media

USER_AGENT: Final = f"pipeline-gateway/{__version__}"
_MESSAGE_CHARS_MAX: Final = 300
_ERROR_BYTES_MAX: Final = 16 * 1024
_DIGITS: Final = re.compile(r"[0-9]{1,9}")
_RETRY_AFTER_S_MAX: Final = 86_400.0
#: A kept connection that the other side had closed shows it within a round trip. One that breaks
#: later may have broken in the middle of the work, which is not for this to ask for twice.
_STALE_S: Final = 1.0
# A multiple of 3: base64 of a piece needs no padding until the last.
_PIECE_BYTES: Final = 3 * 64 * 1024


@dataclass(frozen=True, slots=True)
class Body:
    """A request body as segments that are sent one after the other and never joined.

    ``length`` is in bytes; a ``Media`` among the segments is sent as it is, or as base64 text where
    ``base64`` is set.
    """

    content_type: str
    segments: Sequence[bytes | Media]
    base64: bool = False

    @property
    def length(self) -> int:
        """The body's length on the wire, bytes."""
        return sum(self._size(segment) for segment in self.segments)

    def _size(self, segment: bytes | Media) -> int:
        if isinstance(segment, bytes):
            return len(segment)
        return -(-len(segment.data) // 3) * 4 if self.base64 else len(segment.data)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The body in pieces small enough to be made and written without holding up others."""
        for segment in self.segments:
            data = memoryview(segment if isinstance(segment, bytes) else segment.data)
            encode = self.base64 and isinstance(segment, Media)
            for start in range(0, len(data), _PIECE_BYTES):
                piece = data[start : start + _PIECE_BYTES]
                yield binascii.b2a_base64(piece, newline=False) if encode else piece


@dataclass(slots=True)
class Connection:
    """What is known of the connection a request went out on."""

    reused: bool = False


def tracing() -> aiohttp.TraceConfig:
    """What the shared session needs so that ``HttpApi`` learns of reused connections."""

    async def on_reuse(_: object, context: SimpleNamespace, __: object) -> None:
        if isinstance(context.trace_request_ctx, Connection):
            context.trace_request_ctx.reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(on_reuse)
    return trace


async def _paced(pieces: Iterable[bytes | memoryview]) -> AsyncIterator[bytes | memoryview]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


class HttpApi:
    """One remote API over HTTP/1.1.

    Args:
        name: the upstream's name in the configuration, for errors.
        url: its base, without a slash at the end.
        key_header, key: how the API is given its key; nothing is sent where there is none.
        answer_bytes_max: the longest answer that is read, bytes.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        name: str,
        url: str,
        key_header: str,
        key: str | None,
        answer_bytes_max: int,
    ) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self._session = session
        self._unkept: aiohttp.ClientSession | None = None
        self._key = key
        self._headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if key is not None:
            self._headers[key_header] = key
        self._answer_bytes_max = answer_bytes_max

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        request_id: str,
        connect_s: float,
        accept: str = "application/json",
        body: Body | None = None,
        headers: dict[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request and enter its answer, whose status is 200.

        Raises:
            UpstreamFailed, UpstreamTimeout: for everything that can go wrong, from the name that
                does not resolve to the connection that breaks while the caller reads.
        """
        sent = CIMultiDict(self._headers)
        sent.update(headers or {})  # the client's own where both name one, however it is spelt
        sent.update({"Accept": accept, "X-Request-Id": request_id})
        if body is not None:
            sent["Content-Type"] = body.content_type
            sent["Content-Length"] = str(body.length)
        try:
            response = await self._send(method, self.url + path, sent, body, connect_s)
            try:
                if response.status != 200:
                    raise await self._refusal(response)
                yield response
            finally:
                # An answer that was not read to its end ends here, with its connection: that is
                # how the upstream learns that nobody waits any more.
                if response.status < 200 or not response.content.at_eof():
                    response.close()
        except aiohttp.ClientError as error:
            raise self._failure(error, connect_s) from error

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        connect_s: float,
    ) -> aiohttp.ClientResponse:
        """Send the request. Where a connection that had been kept open turns out, soon, to be
        closed, and nothing of an answer has arrived, it is sent once more, on a new one: where one
        has gone stale, others may have, too."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, connect=connect_s)
        clock = asyncio.get_running_loop().time

        async def send(
            session: aiohttp.ClientSession, connection: Connection
        ) -> aiohttp.ClientResponse:
            return await session.request(
                method,
                url,
                headers=headers,
                data=None if body is None else _paced(body.pieces()),
                timeout=timeout,
                allow_redirects=False,
                trace_request_ctx=connection,
            )

        connection, began = Connection(), clock()
        try:
            return await send(self._session, connection)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            stale = connection.reused and not isinstance(error, aiohttp.ClientConnectorError)
            if not stale or clock() - began > _STALE_S:
                raise
        return await send(self._new_connections(), Connection())

    def _new_connections(self) -> aiohttp.ClientSession:
        """A client that uses no connection twice."""
        if self._unkept is None:
            self._unkept = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=64 * 1024,
            )
        return self._unkept

    async def close(self) -> None:
        """Close what is not the shared session's."""
        if self._unkept is not None:
            await self._unkept.close()

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The whole answer, inflated, of at most ``answer_bytes_max`` bytes."""
        length = 0
        pieces = []
        async with aclosing(self.pieces(response)) as arriving:
            async for piece in arriving:
                length += len(piece)
                if length > self._answer_bytes_max:
                    raise self.invalid(
                        f"its answer is longer than answer_bytes_max "
                        f"({self._answer_bytes_max} bytes)"
                    )
                pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def pieces(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        """The answer as it arrives; a compressed one is inflated in small pieces."""
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding in ("", "identity"):
            async for piece in response.content.iter_any():
                yield piece
            return
        try:
            inflater = Inflater(coding)
            async for piece in response.content.iter_any():
                for inflated in inflater.feed(piece):
                    yield inflated
                    # A bomb inflates for long without waiting for the network: let others run.
                    await asyncio.sleep(0)
        except InflateError as error:
            raise self.invalid(str(error)) from error
        if not inflater.finished:
            raise self.invalid("its compressed answer was cut short")

    def invalid(self, what: str) -> UpstreamFailed:
        """The error for an answer that cannot be read."""
        return UpstreamFailed(f"upstream {self.name}: {what}", code=Code.UPSTREAM_INVALID)

    async def _refusal(self, response: aiohttp.ClientResponse) -> UpstreamFailed | UpstreamTimeout:
        """What a status other than 200 means for the caller."""
        status = response.status
        said = await self._said(response)
        message = f"upstream {self.name}: answered {status}{said}"
        if status in (408, 504):
            return UpstreamTimeout(message)
        if status in (429, 503):
            return UpstreamFailed(
                message,
                code=Code.UPSTREAM_BUSY,
                status=status,
                retry_after_s=_retry_after(response.headers.get("Retry-After")),
            )
        if status in (400, 413, 415, 422):
            return UpstreamFailed(
                message, code=Code.UPSTREAM_REJECTED, status=413 if status == 413 else 400
            )
        if status in (401, 403):
            message = f"upstream {self.name}: refused the gateway's own key ({status}{said})"
        elif status == 404:
            message = f"upstream {self.name}: knows no such pipeline (404{said})"
        return UpstreamFailed(message, alive=status == 404)

    async def _said(self, response: aiohttp.ClientResponse) -> str:
        """The message of an error's JSON body, shortened; anything else is only named by type."""
        content_type = response.content_type
        body = b""
        try:
            async with asyncio.timeout(1.0), aclosing(self.pieces(response)) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > _ERROR_BYTES_MAX:
                        break
            value = msgspec.json.decode(body)
            message = value["message"]
        except (
            TimeoutError, aiohttp.ClientError, UpstreamFailed, ValueError, RecursionError,
            TypeError, KeyError,
        ):  # fmt: skip
            # The status alone has to do: an error page is not worth failing over.
            return f" with {content_type}" if body else ""
        said = str(message)
        if self._key:
            said = said.replace(self._key, "***")
        return f": {said[:_MESSAGE_CHARS_MAX]}"

    def _failure(
        self, error: aiohttp.ClientError, connect_s: float
    ) -> UpstreamFailed | UpstreamTimeout:
        """The one place where the HTTP client's exceptions become the project's."""
        unreachable = Code.UPSTREAM_UNREACHABLE
        match error:
            case aiohttp.ServerTimeoutError():
                return UpstreamTimeout(
                    f"upstream {self.name}: no connection within {connect_s:g} s (connect_s)"
                )
            case aiohttp.ClientConnectorDNSError():
                what, code = "its host name does not resolve", unreachable
            case aiohttp.ClientSSLError():
                what, code = "TLS failed", unreachable
            case aiohttp.ClientConnectorError():
                reason = os.strerror(error.errno) if error.errno else "no connection"
                what, code = f"cannot be reached ({reason})", unreachable
            case aiohttp.ServerDisconnectedError():
                what, code = "closed the connection before it answered", Code.UPSTREAM_FAILED
            case aiohttp.ClientPayloadError() | aiohttp.ClientOSError():
                what, code = "broke off in mid-answer", Code.UPSTREAM_FAILED
            case aiohttp.ClientResponseError():
                what, code = "its answer is not HTTP", Code.UPSTREAM_INVALID
            case _:
                what, code = f"failed ({type(error).__name__})", Code.UPSTREAM_FAILED
        return UpstreamFailed(f"upstream {self.name}: {what}", code=code)


def _retry_after(value: str | None) -> float | None:
    """Seconds, from either form of the header; ``None`` where it has neither."""
    if value is None:
        return None
    if _DIGITS.fullmatch(value.strip()):
        return min(float(value), _RETRY_AFTER_S_MAX)
    try:
        when = parsedate_to_datetime(value)
        wait_s = (when - when.now(when.tzinfo)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, wait_s), _RETRY_AFTER_S_MAX)
