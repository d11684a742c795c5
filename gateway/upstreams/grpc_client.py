"""gRPC to one server: calls side by side on one connection, which is made anew when it is lost.

Owns: the connection, its keep-alive and the turns of those it has no room for, and calls that are
asked once more because nobody heard them.
Does not know: what a message holds, what a status means for whom.

A call costs the loop one write and one or two reads: there is no thread behind it, as there is
behind grpcio's, no task, and no copy of a large message.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Final, cast

from gateway.upstreams.dialing import dial
from gateway.upstreams.grpc_call import Call, Lost, NotGrpc, framed
from gateway.upstreams.http2 import Http2, Http2Error, field

#: Triton takes a connection for an attacker's that is pinged more than every five minutes while a
#: model works in silence, and closes it with the calls on it.
KEEPALIVE_S: Final = 310.0
#: How long an answer to that may take, and whatever is sent to be acknowledged, seconds.
_KEEPALIVE_ANSWER_S: Final = 20.0
#: How many connections a call makes whose servers go away as soon as they are there.
_FRUITLESS_MAX: Final = 3


class Channel:
    """One server.

    Args:
        host: without brackets.
        tls: how to encrypt; ``None``: not at all. It must offer ``h2``.
        server_name: the name that its certificate must have, where that is not ``host``.
        agent: how the gateway names itself.
        message_bytes_max: the longest message that is received, bytes.
        keepalive_s: a connection on which a call waits and nothing has come for so many seconds is
            pinged.
        keepalive_answer_s: and closed where nothing comes after so many more.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        server_name: str | None = None,
        agent: str,
        message_bytes_max: int,
        keepalive_s: float = KEEPALIVE_S,
        keepalive_answer_s: float = _KEEPALIVE_ANSWER_S,
    ) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._server_name = None if tls is None else server_name or host.rstrip(".")
        self._message_bytes_max = message_bytes_max
        self._keepalive = (keepalive_s, keepalive_answer_s)
        self._connection: _Connection | None = None
        self._attempt: asyncio.Task[_Connection] | None = None
        self._closed = False
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        # POST, and http or https, are in HTTP/2's own table.
        self._before = b"\x83" + (b"\x86" if tls is None else b"\x87")
        self._after = b"".join(
            (
                field(b":authority", authority.encode()),
                field(b"te", b"trailers"),
                field(b"content-type", b"application/grpc"),
                field(b"user-agent", agent.encode()),
                field(b"grpc-accept-encoding", b"identity"),
            )
        )

    def method(self, path: str) -> bytes:
        """What ``unary`` and ``stream`` call by: the part of a header block that is the same for
        every call of ``path``."""
        return self._before + field(b":path", path.encode()) + self._after

    async def unary(
        self, method: bytes, metadata: bytes, message: Sequence[bytes], *, connect_s: float
    ) -> bytes:
        """Call ``method`` with one message, given in segments, for one message. Cancelling this
        cancels the call. ``metadata``: fields of a header block.

        Raises:
            TimeoutError: no connection within ``connect_s`` seconds.
            OSError: none could be made: ``socket.gaierror`` where the name does not resolve,
                ``ssl.SSLError`` where TLS fails.
            CallFailed, Lost, MessageTooLong, NotGrpc: the call did not succeed.
        """
        body = framed(message)
        for last_try in (False, True):
            connection = self._connection
            if connection is None or not connection.has_room:
                connection = await self._usable(connect_s)
            call = Call(connection, self._message_bytes_max, whole=True)
            connection.start(call, method + metadata, body)
            try:
                while not call.ended:
                    await call.wait()
            finally:
                connection.cancel(call)
            if call.failure is None:
                if len(call.messages) != 1:
                    raise NotGrpc(f"answered a call with {len(call.messages)} messages")
                return call.messages[0]
            if last_try or not call.unheard:
                raise call.failure
        raise AssertionError  # the second try is the last

    async def stream(
        self, method: bytes, metadata: bytes, message: Sequence[bytes], *, connect_s: float
    ) -> AsyncGenerator[bytes]:
        """As ``unary``, for any number of messages, as they arrive. Closing it cancels the call;
        the server is held back while nobody takes them."""
        body = framed(message)
        for last_try in (False, True):
            connection = self._connection
            if connection is None or not connection.has_room:
                connection = await self._usable(connect_s)
            call = Call(connection, self._message_bytes_max, whole=False)
            connection.start(call, method + metadata, body)
            try:
                while True:
                    while call.messages:
                        yield call.take()
                    if call.ended:
                        break
                    await call.wait()
            finally:
                connection.cancel(call)
            if call.failure is None:
                return
            if last_try or not call.unheard:
                raise call.failure

    async def close(self) -> None:
        """Close the connection, whatever runs on it; no call can be begun any more."""
        self._closed = True
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait({self._attempt})
        if self._connection is not None:
            await self._connection.close()

    async def _usable(self, connect_s: float) -> _Connection:
        """A connection that has room for another call."""
        for _ in range(_FRUITLESS_MAX):
            connection = await self._connected(connect_s)
            while connection.usable:
                if connection.has_room or await connection.turn():
                    return connection
        raise OSError(errno.ECONNRESET, "goes away as soon as it is there")

    async def _connected(self, connect_s: float) -> _Connection:
        """The connection. While it is made, all who need it wait for the same attempt, and it fails
        for all of them: if each who waited made the next one in what is left of its own time, a
        server that was away for a moment would, with enough of them, not be reached ever again."""
        connection = self._connection
        if connection is not None and connection.usable:
            return connection
        if self._closed:
            raise Lost
        attempt = self._attempt
        if attempt is None:
            attempt = self._attempt = asyncio.create_task(self._attempted(connect_s))
        await asyncio.wait({attempt}, timeout=connect_s)
        if not attempt.done():
            raise TimeoutError
        if attempt.cancelled():
            raise Lost
        return attempt.result()

    async def _attempted(self, connect_s: float) -> _Connection:
        """Make the connection, whether or not those who asked for it still wait."""
        try:
            async with asyncio.timeout(connect_s):
                self._connection = await self._connect()
                return self._connection
        finally:
            self._attempt = None

    async def _connect(self) -> _Connection:
        connected = await dial(self._host, self._port)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            answer_ms = int(self._keepalive[1] * 1000)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, answer_ms)
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(*self._keepalive),
            sock=connected,
            ssl=self._tls,
            server_hostname=self._server_name,
        )
        try:
            await connection.settled()
        except BaseException:
            connection.abort()
            raise
        return connection


class _Connection(asyncio.Protocol):
    """One connection, and the calls on it."""

    def __init__(self, keepalive_s: float, keepalive_answer_s: float) -> None:
        self._http2 = Http2()
        self._keepalive_s = keepalive_s
        self._keepalive_answer_s = keepalive_answer_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._settled: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._turns: deque[asyncio.Future[None]] = deque()
        #: How many were given a turn and have not begun their calls yet.
        self._promised = 0
        self._watch: asyncio.TimerHandle | None = None
        #: When something last came, and when it was last pinged for that, by the loop's time.
        self._heard_at = 0.0
        self._flushing = False
        self._closed = False

    @property
    def usable(self) -> bool:
        """Whether calls can still be begun."""
        return not (self._closed or self._http2.going)

    @property
    def has_room(self) -> bool:
        """Whether a call can be begun now."""
        http2 = self._http2
        return self.usable and len(http2.streams) + self._promised < http2.streams_max

    async def settled(self) -> None:
        """Once the server has spoken. Raises OSError, NotGrpc."""
        await self._settled

    async def turn(self) -> bool:
        """Once there is room, which is kept for whoever waited until the call is begun, at once;
        ``False`` where there is none after all, or the connection is of no more use."""
        turn = self._loop.create_future()
        self._turns.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it goes to whoever is next
                self._promised -= 1
                self._give_turns()
            elif turn in self._turns:
                self._turns.remove(turn)
            raise
        self._promised -= 1
        return self.has_room

    def start(self, call: Call, block: bytes, body: Sequence[bytes]) -> None:
        """Begin ``call``."""
        self._http2.start(call, block, body)
        self._flush_soon()
        if self._watch is None:
            self._heard_at = self._loop.time()
            self._watch = self._loop.call_later(self._keepalive_s, self._look)

    def cancel(self, call: Call) -> None:
        """Nobody wants ``call`` any more, if it still runs."""
        if call.open and not self._closed:
            self._http2.cancel(call)
            self._flush_soon()
            self._changed()

    def taken(self, call: Call, count: int) -> None:
        """See ``Http2.taken``."""
        self._http2.taken(call, count)
        self._flush_soon()

    def abort(self) -> None:
        """Close it at once."""
        self._closed = True
        self._transport.abort()

    async def close(self) -> None:
        """Close it, and return once it is."""
        self.abort()
        await self._gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP, and TLS where it is asked for, are done."""
        self._transport = cast("asyncio.Transport", transport)
        encrypted = transport.get_extra_info("ssl_object")
        if encrypted is not None and encrypted.selected_alpn_protocol() != "h2":
            self._settled.set_exception(ssl.SSLError("does not speak HTTP/2 over TLS"))
            self.abort()
            return
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._heard_at = self._loop.time()
        try:
            self._http2.feed(data)
        except Http2Error as error:
            self._break_off(NotGrpc(f"does not speak HTTP/2 as it should: {error}"))
            return
        if self._http2.settled and not self._settled.done():
            self._settled.set_result(None)
        self._flush()
        self._changed()

    def eof_received(self) -> None:
        """The server sends nothing more: a call that is begun now would be lost, too."""
        self._break_off(Lost())

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by either side."""
        self._closed = True
        lost = Lost()
        lost.__cause__ = exc
        self._break_off(lost)
        if self._watch is not None:
            self._watch.cancel()
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        """What was written does not go out as fast as it comes."""
        self._http2.blocked = True

    def resume_writing(self) -> None:
        """It has gone out."""
        self._http2.blocked = False
        self._flush()

    def _unspoken(self, cause: BaseException | None) -> OSError:
        """Why it ended before the server had said anything."""
        if isinstance(cause, ssl.SSLError):
            return cause
        if self._transport.get_extra_info("ssl_object") is not None:
            # Not every server says what it does not like, such as one without a certificate.
            return ssl.SSLError("closed the connection as soon as TLS was agreed on")
        return OSError(errno.ECONNRESET, "closed before it had spoken")

    def _break_off(self, failure: Exception) -> None:
        """Nothing more can come."""
        self.abort()
        if not self._settled.done():
            if isinstance(failure, Lost):
                failure = self._unspoken(failure.__cause__)
            self._settled.set_exception(failure)
            self._settled.exception()  # nobody has to wait for it
        for stream in tuple(self._http2.streams.values()):
            call = cast("Call", stream)
            call.unheard = call.id >= self._http2.unsent_id
            call.end(failure)
        self._http2.streams.clear()
        self._give_turns()

    def _flush(self) -> None:
        if self._closed or self._transport.is_closing():
            return  # nothing of it would be sent
        out = self._http2.take()
        if out:
            self._transport.write(out)
        if self._http2.more:  # of a large body, when others have had their turn
            self._flush_soon()

    def _flush_soon(self) -> None:
        """Send when all that is ready to run now has had its say: calls that begin together go out
        in one write, which costs more than all else about them."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self._flush()

    def _changed(self) -> None:
        """A call may have ended."""
        if self._http2.going and not self._http2.streams:
            self._closed = True
            self._transport.close()
        if self._turns:
            self._give_turns()

    def _give_turns(self) -> None:
        room = len(self._turns)
        if self.usable:
            room = self._http2.streams_max - len(self._http2.streams) - self._promised
        while self._turns and room > 0:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                self._promised += 1
                room -= 1

    def _look(self) -> None:
        """Whether the server still lives, where a call waits for it."""
        self._watch = None
        if self._closed or not self._http2.streams:
            return
        quiet_s = self._loop.time() - self._heard_at
        wait_s = self._keepalive_s - quiet_s
        if wait_s <= 0:
            if self._http2.pinged:
                self._break_off(Lost())
                return
            self._http2.ping()
            self._flush()
            wait_s = self._keepalive_answer_s
        self._watch = self._loop.call_later(wait_s, self._look)
