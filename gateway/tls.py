"""TLS on a client's connection, between the socket's transport and the protocol that answers.

The loop has its own. It tells of what it has yet to send only until that is encrypted: a client who
takes nothing would never be noticed, for all seems sent. Here what is written is encrypted and
handed on within the same call, so that all of it waits in the one place whose size, limits and
pauses the server goes by, as without TLS. Of what is large, no more is encrypted at a time than
others can wait for, and than the client takes.

Owns: the handshake, how long it may take, why it failed.
Does not know: what is spoken inside, which certificates there are (``certificates``).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final, cast

#: As much as one record of TLS can hold.
_RECORD_BYTES: Final = 16 * 1024
#: So much is encrypted until it is handed on, and others get their turn: a millisecond's worth.
_HANDED_BYTES: Final = 256 * 1024
_NOT_TLS: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 46\r\n"
    b"Connection: close\r\n\r\nthis port speaks TLS; ask it with https://...\n"
)


class Failure(StrEnum):
    """Why a handshake came to nothing."""

    PLAIN_HTTP = "plain_http"
    CLIENT_CERTIFICATE = "client_certificate"
    REFUSED = "refused"
    LATE = "late"
    OTHER = "other"


class Encrypted(asyncio.Protocol, asyncio.Transport):
    """The protocol of a socket's transport, and the transport of ``inner`` once TLS is agreed on.

    Args:
        limit_s: how long that may take, seconds.
        failed: told why it came to nothing; not where the client just left.
        settled: told when it is done, or when the connection has ended before it was.
    """

    __slots__ = (
        "_below", "_closing", "_failed", "_held", "_inner", "_limit_s", "_open", "_paused",
        "_received", "_rest", "_rest_bytes", "_sending", "_settled", "_timer", "_tls",
    )  # fmt: skip

    def __init__(
        self,
        inner: asyncio.Protocol,
        context: ssl.SSLContext,
        *,
        limit_s: float,
        failed: Callable[[Failure], None],
        settled: Callable[[Encrypted, bool], None],
    ) -> None:
        self._inner = inner
        self._limit_s = limit_s
        self._failed = failed
        self._settled = settled
        self._received, self._sending = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._sending, server_side=True)
        self._below: asyncio.Transport
        self._open = False
        self._timer: asyncio.TimerHandle | None = None
        #: What was written and is yet to be encrypted.
        self._rest: deque[memoryview] = deque()
        self._rest_bytes = 0
        #: Whether the socket's transport has enough, and what ``inner`` knows of that.
        self._held = self._paused = False
        self._closing = False

    # What the socket's transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._below = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._late)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._received.write(data)
        if self._open or self._agreed():
            self._read()

    def eof_received(self) -> bool | None:
        """See asyncio. The end of a message is told within it, so that nothing can be cut off
        unnoticed by whoever ends the connection without a word of TLS."""
        if not self._open:
            return None
        kept = self._inner.eof_received()
        if kept or not self._rest:
            return kept
        self.close()  # once all is out
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._forget()
        if self._open:
            self._inner.connection_lost(exc)
        else:
            self._done(agreed=False)

    def pause_writing(self) -> None:
        """See asyncio."""
        if self._open:
            self._held = True
            self._weigh()
        else:  # who does not even take the handshake takes nothing
            self.abort()

    def resume_writing(self) -> None:
        """See asyncio."""
        if self._open:
            self._held = False
            if self._rest:
                asyncio.get_running_loop().call_soon(self._go_on)
            else:
                self._weigh()

    def _weigh(self) -> None:
        paused = self._held or bool(self._rest)
        if paused is not self._paused:
            self._paused = paused
            if paused:
                self._inner.pause_writing()
            else:
                self._inner.resume_writing()

    # The handshake

    def _agreed(self) -> bool:
        """Go on with the handshake; whether it is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._hand_on()
            return False
        except ssl.SSLError as error:
            why = _why(error)
            self._failed(why)
            if why is Failure.PLAIN_HTTP:
                self._below.write(_NOT_TLS)
            else:
                self._hand_on()  # the alert that says why
            self._below.close()
            return False
        self._hand_on()
        self._open = True
        self._done(agreed=True)
        self._inner.connection_made(self)
        return True

    def _done(self, *, agreed: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._settled(self, agreed)

    def _late(self) -> None:
        if not self._below.is_closing():  # else it has failed already, and been counted
            self._failed(Failure.LATE)
        self.abort()

    # Bytes

    def _read(self) -> None:
        tls, received = self._tls, self._received
        pieces, ended = [], False
        try:
            while received.pending or tls.pending():
                piece = tls.read(_RECORD_BYTES)
                if not piece:
                    ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass  # the rest of a record is yet to come
        except ssl.SSLError:
            self._hand_on()
            self.abort()
            return
        if self._sending.pending:
            self._hand_on()
        if pieces:
            self._inner.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if ended and not self._inner.eof_received():
            self.close()

    def _hand_on(self) -> None:
        if data := self._sending.read():
            self._below.write(data)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """See asyncio."""
        if self._closing or self._below.is_closing() or not data:
            return
        if self._rest or len(data) > _HANDED_BYTES:
            began = bool(self._rest)
            self._rest.append(memoryview(bytes(data)))
            self._rest_bytes += len(data)
            if not began:
                self._encrypt()
                self._weigh()
            return
        try:
            self._tls.write(data)
        except ssl.SSLError:
            self.abort()
            return
        self._below.write(self._sending.read())

    def _encrypt(self) -> None:
        """Hand on some of the rest, and see to it that what is left then is not forgotten."""
        rest = self._rest
        try:
            while rest and self._sending.pending < _HANDED_BYTES:
                written = self._tls.write(rest[0][:_HANDED_BYTES])
                self._rest_bytes -= written
                if written < len(rest[0]):
                    rest[0] = rest[0][written:]
                else:
                    rest.popleft()
        except ssl.SSLError:
            self.abort()
            return
        self._hand_on()
        if rest and not self._held:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """The socket's transport has room, or others have had their turn."""
        if self._below.is_closing():
            return
        if self._rest and not self._held:
            self._encrypt()
        if self._closing and not self._rest:
            self._end()
        else:
            self._weigh()

    # The transport of ``inner``

    def close(self) -> None:
        """See asyncio. What was written still goes out, and a word that nothing more will come."""
        if self.is_closing():
            return
        self._closing = True
        if self._rest:
            self._below.pause_reading()
        else:
            self._end()

    def _forget(self) -> None:
        self._rest.clear()
        self._rest_bytes = 0

    def _end(self) -> None:
        if self._below.is_closing():
            return
        with suppress(ssl.SSLError):  # the client's own last word is not waited for
            self._tls.unwrap()
        self._hand_on()
        self._below.close()

    def abort(self) -> None:
        """See asyncio."""
        self._forget()
        self._below.abort()

    def is_closing(self) -> bool:
        """See asyncio."""
        return self._closing or self._below.is_closing()

    def is_reading(self) -> bool:
        """See asyncio."""
        return self._below.is_reading()

    def pause_reading(self) -> None:
        """See asyncio."""
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio."""
        self._below.resume_reading()

    def get_write_buffer_size(self) -> int:
        """See asyncio. Bytes as they are sent: encrypted, but for what is not yet."""
        return self._below.get_write_buffer_size() + self._rest_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """See asyncio."""
        return self._below.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio."""
        self._below.set_write_buffer_limits(high, low)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See asyncio."""
        return self._inner

    def can_write_eof(self) -> bool:
        """See asyncio."""
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio."""
        match name:
            case "ssl_object":
                return self._tls
            case "sslcontext":
                return self._tls.context
        return self._below.get_extra_info(name, default)


def _why(error: ssl.SSLError) -> Failure:
    reason = error.reason or ""
    if reason == "HTTP_REQUEST":
        return Failure.PLAIN_HTTP
    if isinstance(error, ssl.SSLCertVerificationError) or "DID_NOT_RETURN_A_CERT" in reason:
        return Failure.CLIENT_CERTIFICATE
    if "_ALERT_" in reason:  # the client's word on what it was shown
        return Failure.REFUSED
    return Failure.OTHER
