"""What the two remote HTTP APIs have in common: one call, its errors, its bounded answer.

Owns: when a request is sent a second time, and the translation of every failure of a connection and
of every bad status into the project's errors.
Does not know: what either API means by its bodies.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Mapping
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Final

import msgspec

from gateway.errors import Code, UpstreamFailed, UpstreamTimeout
from gateway.upstreams.answer import Answer, Broken
from gateway.upstreams.answer_parser import NotHttp
from gateway.upstreams.dialing import tls_words
from gateway.upstreams.outgoing import SMALL_BYTES, Body, Heads, Origin
from gateway.upstreams.pool import Pool

_MESSAGE_CHARS_MAX: Final = 300
_ERROR_BYTES_MAX: Final = 16 * 1024
_ERROR_S: Final = 1.0
_DIGITS: Final = re.compile(r"[0-9]{1,9}")
_RETRY_AFTER_S_MAX: Final = 86_400.0
#: A kept connection that the other side had closed shows it within a round trip. One that breaks
#: later may have broken in the middle of the work, which is not for this to ask for twice.
_STALE_S: Final = 1.0
_JSON: Final = "application/json"
_NO_HEADERS: Final[Mapping[str, str]] = {}


class HttpApi:
    """One remote API over HTTP/1.1.

    Args:
        name: the upstream's name in the configuration, for errors.
        url: its base, without a slash at the end.
        key_header, key: how the API is given its key; nothing is sent where there is none.
        answer_bytes_max: the longest answer that is read, bytes.
        tls: whom to trust over https, other than the system's authorities, and what to show.
        server_name: the name that its certificate must have, where that is not its host.
    """

    def __init__(
        self,
        *,
        name: str,
        url: str,
        key_header: str,
        key: str | None,
        answer_bytes_max: int,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        self.name = name
        self.answer_bytes_max = answer_bytes_max
        origin = Origin(url)
        self._key = key
        self._heads = Heads(origin, key_header=key_header, key=key)
        self._pool = Pool(origin, tls, server_name)

    def post(
        self,
        path: str,
        body: Body | bytes,
        *,
        request_id: str,
        connect_s: float,
        accept: str = _JSON,
        headers: Mapping[str, str] = _NO_HEADERS,
        whole: bool = False,
    ) -> Awaitable[Answer]:
        """Send a request with a body; the answer, whose status is 200, once its head has come.

        The caller closes it. A ``body`` that is bytes is JSON. ``headers`` are those of the client
        that go along, by name in lower case. ``connect_s`` bounds the time to get a connection;
        cancelling bounds all the rest, and closes the connection. ``whole``: the answer will be
        read whole, and once it has begun may be waited for to its end.

        Raises:
            UpstreamFailed, UpstreamTimeout: for everything that can go wrong, from the name that
                does not resolve to a status that is not 200.
            RequestRejected: one of ``headers`` cannot be sent.
        """
        if isinstance(body, bytes):
            content_type, length = _JSON, len(body)
        else:
            content_type, length = body.content_type, body.length
        head = self._heads.post(
            path,
            accept=accept,
            request_id=request_id,
            content_type=content_type,
            length=length,
            headers=headers,
        )
        if length > SMALL_BYTES:
            rest = Body(_JSON, [body]) if isinstance(body, bytes) else body
            return self._call(head, rest, connect_s, whole)
        request = head + body if isinstance(body, bytes) else body.after(head)
        return self._call(request, None, connect_s, whole)

    async def get(self, path: str, *, request_id: str, connect_s: float) -> Answer:
        """As ``post``, without a body."""
        head = self._heads.get(path, request_id=request_id)
        return await self._call(head, None, connect_s, whole=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    async def _call(self, head: bytes, body: Body | None, connect_s: float, whole: bool) -> Answer:
        """Send the request. Where a connection that had been kept open turns out, soon, to be
        closed, and nothing of an answer has arrived, it is sent once more, on a new one: where one
        has gone stale, others may have, too."""
        answer = Answer(self, whole=whole)
        connection = self._pool.take()
        began = monotonic()
        try:
            try:
                if connection is None:
                    answer = await self._on_new(head, body, connect_s, whole)
                else:
                    pieces = None if body is None else body.pieces()
                    await connection.exchange(answer, head, pieces)
            except Broken as error:
                if connection is None or error.received or monotonic() - began > _STALE_S:
                    raise
                answer = await self._on_new(head, body, connect_s, whole)
        except (OSError, UnicodeError, NotHttp, Broken) as error:
            raise self._translated(error, connect_s) from error
        if answer.status == 200:
            return answer
        with answer:
            raise await self._refusal(answer)

    async def _on_new(
        self, head: bytes, body: Body | None, connect_s: float, whole: bool
    ) -> Answer:
        async with asyncio.timeout(connect_s):
            connection = await self._pool.connect()
        answer = Answer(self, whole=whole)
        await connection.exchange(answer, head, None if body is None else body.pieces())
        return answer

    def invalid(self, what: str) -> UpstreamFailed:
        """The error for an answer that cannot be read."""
        return UpstreamFailed(f"upstream {self.name}: {what}", code=Code.UPSTREAM_INVALID)

    async def _refusal(self, answer: Answer) -> UpstreamFailed | UpstreamTimeout:
        """What a status other than 200 means for the caller."""
        status = answer.status
        said = await self._said(answer)
        message = f"upstream {self.name}: answered {status}{said}"
        if status in (408, 504):
            return UpstreamTimeout(message)
        if status in (429, 503):
            return UpstreamFailed(
                message,
                code=Code.UPSTREAM_BUSY,
                status=status,
                retry_after_s=_retry_after(answer.headers.get("retry-after")),
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

    async def _said(self, answer: Answer) -> str:
        """The message of an error's JSON body, shortened; anything else is only named by type."""
        body = b""
        try:
            async with asyncio.timeout(_ERROR_S), aclosing(answer.pieces()) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > _ERROR_BYTES_MAX:
                        break
            message = msgspec.json.decode(body)["message"]
        except (
            TimeoutError, UpstreamFailed, ValueError, RecursionError, TypeError, KeyError,
        ):  # fmt: skip
            # The status alone has to do: an error page is not worth failing over.
            return f" with {answer.content_type}" if body else ""
        said = str(message)
        if self._key:
            said = said.replace(self._key, "***")
        return f": {said[:_MESSAGE_CHARS_MAX]}"

    def failure(self, error: Exception) -> UpstreamFailed | UpstreamTimeout:
        """What the end of a connection before its answer's end is for the caller."""
        return self._translated(error, 0.0)

    def _translated(self, error: Exception, connect_s: float) -> UpstreamFailed | UpstreamTimeout:
        """The one place where what is not the project's becomes it."""
        unreachable = Code.UPSTREAM_UNREACHABLE
        match error:
            case TimeoutError(errno=None):
                return UpstreamTimeout(
                    f"upstream {self.name}: no connection within {connect_s:g} s (connect_s)"
                )
            case socket.gaierror() | UnicodeError():
                what, code = "its host name does not resolve", unreachable
            case ssl.SSLError() | Broken(__cause__=ssl.SSLError()):
                what, code = tls_words(error), unreachable
            case OSError():
                reason = os.strerror(error.errno) if error.errno else "no connection"
                what, code = f"cannot be reached ({reason})", unreachable
            case Broken(received=False):
                what, code = "closed the connection before it answered", Code.UPSTREAM_FAILED
            case Broken():
                what, code = "broke off in mid-answer", Code.UPSTREAM_FAILED
            case NotHttp():
                what, code = "its answer is not HTTP", Code.UPSTREAM_INVALID
            case _:
                what, code = f"failed ({type(error).__name__})", Code.UPSTREAM_FAILED
        return UpstreamFailed(f"upstream {self.name}: {what}", code=code)


def _retry_after(value: str) -> float | None:
    """Seconds, from either form of the header; ``None`` where it has neither."""
    if _DIGITS.fullmatch(value):
        return min(float(value), _RETRY_AFTER_S_MAX)
    try:
        when = parsedate_to_datetime(value)
        wait_s = (when - when.now(when.tzinfo)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, wait_s), _RETRY_AFTER_S_MAX)
