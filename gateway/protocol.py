"""aiohttp's server, with this project's answer to what is not HTTP, and to what comes too slowly.

Owns: the connection's protocol, where aiohttp's own would differ from what callers are promised, or
costs what is of no use here; the time that a request's head may take; what is refused of the heads
that its parser lets through; a request as it came in.
Does not know: what a well-formed request is answered.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, Protocol, cast

import msgspec
from aiohttp import EMPTY_PAYLOAD, HttpVersion, StreamReader, hdrs, web
from aiohttp.helpers import set_exception
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage, StreamWriter
from aiohttp.web_protocol import ERROR, RequestHandler, _ErrInfo
from multidict import CIMultiDictProxy, MultiMapping

from gateway.errors import Code, RequestRejected

SERVER: Final = "pipeline-gateway"
#: What the system takes from the gateway before the network does, bytes. Left to itself that comes
#: to megabytes, of which a slow client takes the first third without a sign that it lives.
_UNSENT_BYTES: Final = 128 * 1024
#: A body up to this size has not made its reader hold the client back, and need not let it go on.
_SMALL_BYTES: Final = 64 * 1024
_UNSENT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)
#: A host, and a port where it has one (RFC 3986); it may be empty.
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[\w.~!$&'()*+,;=%-]*)(?::[0-9]*)?", re.ASCII)
#: Clients ask for few hosts, and so many are known by sight; none is longer than a header may be.
_HOSTS_KEPT: Final = 256


def _body(error: RequestRejected) -> bytes:
    """No dialect is known yet where a head cannot be read, so the error has the fields of both."""
    return msgspec.json.encode({"code": error.code, "name": error.name, "message": error.message})


def _refusal(message: RawRequestMessage, body: StreamReader) -> RequestRejected | None:
    """Why a request is refused that aiohttp's parser has let through: it could be read in more than
    one way, or in none that this server knows. Who stands before it might read it otherwise, and
    take what follows it for something else than it is taken for here."""
    version, headers = message.version, message.headers
    if version is not HttpVersion11 and version is not HttpVersion10:
        return _malformed("its version is neither HTTP/1.1 nor HTTP/1.0", 505)
    if hdrs.TRANSFER_ENCODING in headers and (
        version is HttpVersion10 or headers[hdrs.TRANSFER_ENCODING].lower() != "chunked"
    ):
        # 1.0 has no such coding; of those that 1.1 has, no other is undone here.
        status = 501 if message.chunked and version is HttpVersion11 else 400
        return _malformed("Transfer-Encoding: only chunked is understood, in HTTP/1.1", status)
    if message.upgrade and message.method == hdrs.METH_CONNECT:
        return _malformed("CONNECT: this is no proxy of that kind", 501)
    if body is EMPTY_PAYLOAD and headers.get(hdrs.CONTENT_LENGTH, "0").strip("0"):
        return _malformed("Content-Length: longer than anything is")  # the parser's word for none
    if "#" in message.path:
        return _malformed("the path of a request has no fragment")
    if not _is_host(headers.get(hdrs.HOST, "")):
        return _malformed("Host: expected a name or an address, and a port if any")
    return None


@lru_cache(_HOSTS_KEPT)
def _is_host(value: str) -> bool:
    return _HOST.fullmatch(value) is not None


def _malformed(words: str, status: int = 400) -> RequestRejected:
    return RequestRejected(words, status=status)


class Incoming:
    """A request as it came in: what its head says, and ``content``, from which its body is read.

    aiohttp's own request knows how to do much more with either, and to make it costs as much as to
    answer from the gateway's own knowledge.
    """

    __slots__ = (
        "_url", "content", "headers", "keep_alive", "method", "path", "protocol", "task", "version",
    )  # fmt: skip

    def __init__(
        self,
        message: RawRequestMessage,
        content: StreamReader,
        protocol: Connection,
        task: asyncio.Task[Any],
    ) -> None:
        self._url = message.url
        self.method = message.method
        #: As it was sent, still percent-encoded, and without the query.
        self.path: str = message.url.raw_path
        self.headers: CIMultiDictProxy[str] = message.headers
        self.version: HttpVersion = message.version
        #: Whether the connection may be kept. What follows upon asking for another protocol may
        #: already be in that: nothing of it is read. An offer of h2c stays one until it is taken
        #: up, and some clients make it with each request.
        self.keep_alive = not (
            message.should_close
            or (message.upgrade and message.headers.get(hdrs.UPGRADE, "").lower() != "h2c")
        )
        self.content = content
        self.protocol = protocol
        #: The one that answers it.
        self.task = task

    @property
    def query(self) -> MultiMapping[str]:
        """The query's parameters."""
        return self._url.query

    @property
    def content_type(self) -> str:
        """The media type of the body without its parameters, in lower case; ``""`` for none."""
        return self.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()

    @property
    def content_length(self) -> int | None:
        """How long the body is as sent, bytes; ``None`` where that is not said."""
        length = self.headers.get(hdrs.CONTENT_LENGTH)
        # Before as many digits as 64 bits can have, the parser has let only zeros through.
        return None if length is None else int(length[-20:])

    def arrived(self) -> bytes | None:
        """The whole body, where all of it is there already; else ``None``."""
        content = self.content
        if not content.is_eof() or content.exception() is not None:
            return None
        if content is not EMPTY_PAYLOAD:
            pieces = content._buffer
            if len(pieces) == 1 and len(pieces[0]) <= _SMALL_BYTES:
                return pieces.popleft()  # what its own reading comes to, but for six calls
        return content.read_nowait(-1)

    # What aiohttp's connection asks of the request that is being answered.

    def _cancel(self, error: BaseException) -> None:
        set_exception(self.content, error)

    def _finish(self) -> None:
        """Nothing is left to do."""


class Answered(Protocol):
    """What the handler says of an answer that it has written; for aiohttp, see there."""

    keep_alive: bool

    async def prepare(self, request: web.BaseRequest) -> None:
        """See aiohttp."""

    async def write_eof(self) -> None:
        """See aiohttp."""


Handler = Callable[[Incoming], Awaitable[Answered]]


class Connection(RequestHandler):
    """A connection."""

    # Of these there is one for each client, idle or not.
    __slots__ = (
        "_head_arriving",
        "_head_limit_s",
        "_head_since",
        "_head_timer",
        "_last_body",
        "_lost",
        "_offering",
        "_server",
        "blocked",
        "when_free",
    )

    def __init__(self, manager: HttpServer, **options: Any) -> None:
        super().__init__(manager, **options)
        self._server = manager
        self._head_limit_s = manager.header_timeout_s
        #: Since when a head is waited for, loop time; ``None``: only the keep-alive time counts.
        self._head_since: float | None = None
        #: Whether any of it has arrived.
        self._head_arriving = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._last_body: StreamReader | None = None
        #: The body of a request that offers another protocol, while it arrives.
        self._offering: StreamReader | None = None
        #: Whether something may have come behind such a request, of which nothing is known.
        self._lost = False
        #: Whether the client has so much yet to take that nothing more should be written.
        self.blocked = False
        #: Called once, when the client has taken so much that more may be written.
        self.when_free: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio. A connection on which nothing comes is not kept for longer than a head."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if _UNSENT is not None and connection is not None:
            connection.setsockopt(socket.IPPROTO_TCP, _UNSENT, _UNSENT_BYTES)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio."""
        super().connection_lost(exc)
        self.rest()

    def data_received(self, data: bytes) -> None:
        """See asyncio. What comes when no body is due, and does not complete a head, begins one."""
        body, requests = self._last_body, self._request_count
        offering = self._offering
        came = 0 if offering is None else offering.total_bytes
        super().data_received(data)
        if offering is not None:
            self._lost = self._lost or offering.total_bytes - came != len(data)
            self._offering = None if offering.is_eof() else offering
        if self._request_count != requests:
            message, self._last_body = self._messages[-1]
            if type(message) is RawRequestMessage:
                if message.upgrade:
                    self._offered(self._last_body, data)
            elif body is not None and not body.is_eof():
                # aiohttp tells nobody who waits for the rest of it.
                set_exception(body, web.RequestPayloadError("its framing is broken"))
            self._head_since, self._head_arriving = None, False
        elif not self._head_arriving and (body is None or body.is_eof()) and data.strip(b"\r\n"):
            # Not noticed is a head that begins in the same read as what was before it ends: its
            # time begins with the next byte of it, or is that of an idle connection.
            self._head_arriving = True
            self._await_head()

    def _offered(self, body: StreamReader, data: bytes) -> None:
        """A request has begun in ``data`` that offers another protocol. The parser throws away what
        comes in one read with its end: the connection is kept only where that is known to be
        nothing. Of chunks it is not."""
        # A head whose end is the beginning of this read cannot be told from one behind it.
        end = -1 if data[:1] in (b"\r", b"\n", b"") else data.find(b"\r\n\r\n") + 4
        if self._buffer_paused or len(data) - end != body.total_bytes:
            self._lost = True
        elif not body.is_eof():
            self._offering = body

    async def start(self) -> None:
        """See aiohttp: answer the connection's requests, one after the other.

        aiohttp's own makes for each a task, a writer and a request that can do more, of which the
        handler has no use: it writes its answers itself. Parsing, and what may wait unanswered,
        stay aiohttp's, and so does the answer to what is not HTTP.
        """
        server, messages = self._server, self._messages
        handler, task = server.handler, cast("asyncio.Task[Any]", asyncio.current_task())
        while not self._force_close:
            if not messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            message, body = messages.popleft()
            if self._parser is not None:
                self._parser.message_consumed()
            if self._buffer_paused and len(messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            server.requests_count += 1
            if not isinstance(message, RawRequestMessage):
                await self._refuse(message, body, task)
                break
            if (refusal := _refusal(message, body)) is not None:
                fault = _ErrInfo(refusal.status, refusal, refusal.message)
                await self._refuse(fault, EMPTY_PAYLOAD, task)
                break
            incoming = Incoming(message, body, self, task)
            del message, body  # a request may take long: only what is asked for is held meanwhile
            self._current_request = cast("Any", incoming)
            self._request_in_progress = True
            try:
                answered = await handler(incoming)
            except asyncio.CancelledError:
                self.force_close()
                raise
            finally:
                self._current_request = None
                self._request_in_progress = False
                if self._handler_waiter is not None and not self._handler_waiter.done():
                    self._handler_waiter.set_result(None)
            if not incoming.content.is_eof():
                await self._take_rest(incoming.content)
            if not answered.keep_alive or self._close or self._force_close or self._lost:
                break
            del incoming, answered  # while it waits, nothing is held of the last one
            self._keep()
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _refuse(self, fault: Any, body: StreamReader, task: asyncio.Task[Any]) -> None:
        """Answer, as aiohttp does, what is not HTTP. The connection is of no more use."""
        request = self._server.request_factory(
            ERROR, body, self, StreamWriter(self, self._loop), task
        )
        with suppress(ConnectionError):
            await self._handle_request(request, None, self._make_error_handler(fault))

    async def _take_rest(self, body: StreamReader) -> None:
        """Take for a while what still comes of a body that the answer did not wait for, so that the
        client gets to read that; then the connection is of no more use."""
        with suppress(TimeoutError, ConnectionError, web.RequestPayloadError):
            async with asyncio.timeout(self._lingering_time):
                while not (body.is_eof() or self._force_close):
                    await body.readany()
        if not body.is_eof():
            self.close()

    def _keep(self) -> None:
        """Keep the connection for another request, but not for ever."""
        self._keepalive = True
        self._next_keepalive_close_time = due = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(due, self._process_keepalive)

    async def drained(self) -> None:
        """Return once the client has taken so much that more may be written."""
        if self.transport is not None and self._paused:
            await self._drain_helper()

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self.blocked = True

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        self.blocked = False
        if self.when_free is not None:
            self.when_free()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """See aiohttp, which gets here whenever a body is taken, paused or not."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    @property
    def idle(self) -> bool:
        """Whether no request is being answered, nor about to be."""
        return self._waiter is not None and not self._waiter.done()

    def close(self) -> None:
        """See aiohttp, which stops serving an idle connection here, but leaves it open."""
        idle = self.idle
        super().close()
        if idle:
            self.force_close()

    def rest(self) -> None:
        """An answer begins that may take long: no timer is kept for the connection meanwhile, and
        nothing of a body that has been read. The next head that begins sets it again, and so does
        the answer's end the one that bounds an idle connection."""
        for timer in (self._head_timer, self._keepalive_handle):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._keepalive_handle = None
        incoming = cast("Incoming | None", self._current_request)
        if incoming is not None and incoming.content.is_eof():
            if self._last_body is incoming.content:  # and not that of a request behind it
                self._last_body = None
            incoming.content = EMPTY_PAYLOAD

    def _await_head(self) -> None:
        self._head_since = self._loop.time()
        if self._head_timer is None:
            due = self._head_since + self._head_limit_s()
            self._head_timer = self._loop.call_at(due, self._head_due)

    def _head_due(self) -> None:
        """The timer, which is left to run when a head has come, and set anew where one began."""
        self._head_timer = None
        if self._head_since is None or self.transport is None:
            return
        limit_s, now = self._head_limit_s(), self._loop.time()
        due = self._head_since + limit_s
        if not self.idle:
            due = now + limit_s  # it follows a request that is still being answered
        if due > now:
            self._head_timer = self._loop.call_at(due, self._head_due)
            return
        if self._head_arriving:
            self.transport.write(_late(limit_s))
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See aiohttp. Only malformed requests get here: the gateway's handler raises nothing."""
        error = exc
        if not isinstance(error, RequestRejected):
            error = RequestRejected("the request is not well-formed HTTP/1.1", status=status)
        response = web.Response(
            status=status,
            body=_body(error),
            headers={hdrs.CONTENT_TYPE: "application/json", hdrs.SERVER: SERVER},
        )
        response.force_close()
        return response


def _late(limit_s: float) -> bytes:
    """The answer to a head that takes too long, whole."""
    error = RequestRejected(
        f"the request's head did not arrive within {limit_s:g} s (header_timeout_s)",
        code=Code.REQUEST_TIMEOUT,
    )
    body = _body(error)
    head = (
        f"HTTP/1.1 {error.status} Request Timeout\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nServer: {SERVER}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


class HttpServer(web.Server):
    """The server. Bodies are inflated by ``body``, not by it.

    Args:
        header_timeout_s: gives the seconds that a request's head may take to arrive, as they are
            configured now.
    """

    def __init__(
        self, handler: Handler, *, header_timeout_s: Callable[[], float], **options: Any
    ) -> None:
        super().__init__(cast("Any", handler), **options)
        self.handler = handler
        self.header_timeout_s = header_timeout_s

    def pre_shutdown(self) -> None:
        """Close the connections on which nothing runs. aiohttp's own would tell the others too, and
        they would take no more of the bodies that are still arriving."""
        for connection in list(self._connections):
            if cast("Connection", connection).idle:
                connection.close()

    def __call__(self) -> RequestHandler:
        """The protocol of one new connection."""
        return cast("RequestHandler", Connection(self, loop=self._loop, **self._kwargs))
