"""One call of gRPC: its messages in their frames, how it ends, and what that means.

Owns: the framing of messages, the statuses of gRPC, of HTTP and of streams that were reset, and how
much of a call may wait to be taken.
Does not know: connections, what a message holds, what a status means for whom.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from gateway.upstreams.http2 import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    INADEQUATE_SECURITY,
    REFUSED_STREAM,
    STREAM_WINDOW,
    Fields,
    Stream,
)

#: A message of at most so many bytes is put into one frame.
_SMALL_BYTES: Final = 16_384 - 5
#: How much of a stream may wait to be taken before the server is held back, bytes.
_UNTAKEN_BYTES: Final = STREAM_WINDOW // 4


class Code(IntEnum):
    """gRPC's statuses; one that is none of these is ``UNKNOWN``."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_BY_NUMBER: Final = {str(code.value).encode(): code for code in Code}
#: What a status of HTTP means where there is none of gRPC.
_BY_HTTP: Final = {
    b"400": Code.INTERNAL,
    b"401": Code.UNAUTHENTICATED,
    b"403": Code.PERMISSION_DENIED,
    b"404": Code.UNIMPLEMENTED,
    b"429": Code.UNAVAILABLE,
    b"502": Code.UNAVAILABLE,
    b"503": Code.UNAVAILABLE,
    b"504": Code.UNAVAILABLE,
}
#: And what the code of a stream that was reset means.
_BY_RESET: Final = {
    CANCEL: Code.CANCELLED,
    REFUSED_STREAM: Code.UNAVAILABLE,
    ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


class CallFailed(Exception):
    """The server says that a call failed: ``code``, and ``said``, its words."""

    def __init__(self, code: Code, said: str) -> None:
        super().__init__(f"{code.name}: {said}")
        self.code = code
        self.said = said


class Lost(Exception):
    """The connection ended before the call did."""


class NotGrpc(Exception):
    """What came is not gRPC; the message says what of it."""


class MessageTooLong(Exception):
    """The server sends a message over the bound."""


def framed(message: Sequence[bytes]) -> Sequence[bytes]:
    """A message behind its length; in one piece where it is small."""
    size = sum(map(len, message))
    head = b"\0" + size.to_bytes(4, "big")
    return (b"".join((head, *message)),) if size <= _SMALL_BYTES else (head, *message)


class Carrier(Protocol):
    """What a call goes over."""

    def taken(self, call: Call, count: int) -> None:
        """``count`` bytes of what came for ``call`` have been used."""


class Call(Stream):
    """One call. ``failure``: why it ended, where it did not succeed; ``unheard``: the server has
    done nothing with it. ``whole``: nobody looks before its end."""

    __slots__ = (
        "_bytes_max", "_carrier", "_owed", "_piece", "_status", "_untaken", "_waiter", "_whole",
        "ended", "failure", "messages", "unheard",
    )  # fmt: skip

    def __init__(self, carrier: Carrier, bytes_max: int, *, whole: bool) -> None:
        super().__init__()
        self.ended = False
        self.failure: Exception | None = None
        self.unheard = False
        self.messages: deque[bytes] = deque()
        self._carrier = carrier
        self._bytes_max = bytes_max
        self._whole = whole
        #: The status of HTTP, once the head has come.
        self._status = b""
        #: What has come of a message that is not complete.
        self._piece = bytearray()
        #: What complete messages hold that nobody has taken, each with the five bytes before it, or
        #: the empty ones would count for nothing; and what of all that came the server has not been
        #: told of, bytes.
        self._untaken = 0
        self._owed = 0
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Until there is news: a message, or the end."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """The next message."""
        message = self.messages.popleft()
        self._untaken -= len(message) + 5
        if self._owed and self._untaken <= _UNTAKEN_BYTES:
            self._carrier.taken(self, self._owed)
            self._owed = 0
        return message

    def end(self, failure: Exception | None) -> None:
        """It is over."""
        if not self.ended:
            self.ended = True
            self.failure = failure
            self._wake()

    def on_fields(self, fields: Fields) -> None:
        """See ``Stream.on_fields``."""
        told = dict(fields)
        if not self._status:
            status = told.get(b":status", b"")
            if status.startswith(b"1"):
                return
            self._status = status
        if b"grpc-status" in told:
            self._end_with(told)
        elif self._status != b"200":
            code = _BY_HTTP.get(self._status, Code.UNKNOWN)
            self.end(CallFailed(code, f"answered {self._status.decode('latin-1')}"))
        elif not told.get(b"content-type", b"application/grpc").startswith(b"application/grpc"):
            self.end(NotGrpc("does not speak gRPC"))

    def _end_with(self, told: dict[bytes, bytes]) -> None:
        code = _BY_NUMBER.get(told[b"grpc-status"], Code.UNKNOWN)
        if code is Code.OK:
            self.end(NotGrpc("ended in the middle of a message") if self._piece else None)
        else:
            said = unquote_to_bytes(told.get(b"grpc-message", b"")).decode("utf-8", "replace")
            self.end(CallFailed(code, said))

    def on_data(self, data: bytes) -> None:
        """See ``Stream.on_data``."""
        if self.ended:
            return
        count = len(data)
        self._piece += data
        while len(self._piece) >= 5 and not self.ended:
            size = int.from_bytes(self._piece[1:5], "big")
            if self._piece[0]:
                self.end(NotGrpc("sent a compressed message without being asked"))
            elif size > self._bytes_max:
                self.end(MessageTooLong())
            elif self._whole and self.messages:
                self.end(NotGrpc("answered a call with 2 messages or more"))
            elif len(self._piece) < size + 5:
                break
            else:
                self._complete(size)
        if self._whole or self._untaken <= _UNTAKEN_BYTES:
            self._carrier.taken(self, count)
        else:
            self._owed += count

    def _complete(self, size: int) -> None:
        self.messages.append(bytes(memoryview(self._piece)[5 : 5 + size]))
        if len(self._piece) == size + 5:
            self._piece = bytearray()
        else:
            del self._piece[: size + 5]
        self._untaken += size + 5
        if not self._whole:
            self._wake()

    def on_end(self) -> None:
        """See ``Stream.on_end``."""
        self.end(NotGrpc("ended without a status"))

    def on_reset(self, code: int, *, unheard: bool) -> None:
        """See ``Stream.on_reset``."""
        self.unheard = unheard and not self._status
        self.end(CallFailed(_BY_RESET.get(code, Code.INTERNAL), f"reset the call (code {code})"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
