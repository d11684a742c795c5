"""One connection of HTTP/1.1, on which one exchange runs at a time.

Owns: the transport, the sending of a request, the parser that its bytes go through, and the
decision whether the connection can be used again.
Does not know: who asks, what an answer means, for how long a connection is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol, cast

from gateway.upstreams.answer import Answer, Broken
from gateway.upstreams.answer_parser import AnswerParser, NotHttp

#: What is read at a time of an answer that is wanted whole, bytes.
READ_BYTES: Final = 256 * 1024


class Keeper(Protocol):
    """Where connections are between two exchanges, and what they share."""

    #: READ_BYTES that a read goes into. A read and what is made of it are one step of the loop, so
    #: that one buffer does for all connections; a new one each time would cost two system calls.
    buffer: memoryview
    #: As much of it as may be read of an answer that is not wanted whole.
    small: memoryview

    def opened(self, connection: Connection) -> None:
        """It is there."""

    def keep(self, connection: Connection) -> None:
        """It is free for another exchange."""

    def lost(self, connection: Connection) -> None:
        """It is closed."""


class Connection(asyncio.BufferedProtocol):
    """The protocol of one connection."""

    __slots__ = (
        "_answer", "_blocked", "_keeper", "_large", "_parser", "_paused", "_sending", "_small",
        "_transport", "closed", "idle_since",
    )  # fmt: skip

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._parser = AnswerParser()
        self._large = keeper.buffer
        self._small = keeper.small
        self._transport: asyncio.Transport
        self._answer: Answer | None = None
        self._blocked = False
        self._paused = False
        self._sending = False
        #: Whether it can carry nothing more.
        self.closed = False
        #: Since when no exchange has run on it; the loop's time, seconds.
        self.idle_since = 0.0

    async def exchange(
        self, answer: Answer, head: bytes, pieces: Iterable[bytes | memoryview] | None
    ) -> None:
        """Send a request; return once the head of its answer has come, which may be before all of
        the request is sent, or, if it is wanted whole, all of it. ``pieces`` are of a body that is
        not within ``head``.

        Raises:
            Broken, NotHttp: the connection is closed. So it is where this is cancelled.
        """
        if self.closed:
            raise Broken(received=False)
        self._parser.begin()
        self._answer = answer
        answer.opened(self)
        self._transport.write(head)
        try:
            if pieces is not None:
                await self._send(answer, pieces)
            while not answer.status:
                if answer.error is not None:
                    raise answer.error
                await answer.news()
        except BaseException:
            answer.close()
            raise

    async def _send(self, answer: Answer, pieces: Iterable[bytes | memoryview]) -> None:
        """Send the body, piece by piece; what is left of it is not sent once there is an answer.

        Each piece is made when the one before it has gone out, and others get their turn.
        """
        self._sending = True
        for piece in pieces:
            if answer.status or answer.ended:
                return  # and still counted as sending: the connection is of no more use
            self._transport.write(piece)
            await asyncio.sleep(0)
            while self._blocked and not (answer.status or answer.ended):
                await answer.wait()
        self._sending = False

    def pause(self) -> None:
        """Read nothing more from the socket."""
        if not (self._paused or self.closed):
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self.closed:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close it at once; whoever waits for an answer on it knows."""
        self._answer = None
        self.closed = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP, and TLS where it is asked for, are done."""
        self._transport = cast("asyncio.Transport", transport)
        self._keeper.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._large if self._answer is not None and self._answer.whole else self._small

    def buffer_updated(self, nbytes: int) -> None:
        """``nbytes`` bytes have come."""
        answer, parser = self._answer, self._parser
        if answer is None:  # nothing was asked
            self.abort()
            return
        failure = None
        try:
            parser.feed(self._large[:nbytes])
        except NotHttp as error:
            failure = error
        head = parser.head
        if head is not None and not answer.status:
            answer.begun(head)
        data = parser.pieces.pop() if len(parser.pieces) == 1 else parser.take()
        if parser.complete:
            # Before its last bytes are handed on: whoever has them may be done with it.
            self._complete(answer)
        if data:
            answer.arrived(data)
        if parser.complete:
            answer.wake()
        elif failure is not None and self._answer is answer:
            self.abort()
            answer.failed(failure)

    def eof_received(self) -> None:
        """The other side will send nothing more."""
        answer = self._answer
        if answer is None:
            self.abort()
        elif self._parser.eof():
            self._complete(answer)
            answer.wake()
        else:
            self.break_off()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by either side; ``exc`` says why where it was not asked for."""
        self.closed = True
        self.break_off(exc)
        self._parser.close()
        self._keeper.lost(self)

    def pause_writing(self) -> None:
        """What was written does not go out as fast as it comes."""
        self._blocked = True

    def resume_writing(self) -> None:
        """It has gone out."""
        self._blocked = False
        if self._answer is not None:
            self._answer.wake()

    def break_off(self, cause: Exception | None = None) -> None:
        """Close it at once; what runs on it fails."""
        answer = self._answer
        self.abort()
        if answer is not None:
            broken = Broken(received=self._parser.received)
            broken.__cause__ = cause
            answer.failed(broken)

    def _complete(self, answer: Answer) -> None:
        """The answer has come to its end; the connection is kept, or it is not."""
        self._answer = None
        answer.completed()
        head = self._parser.head
        if (
            head is not None
            and head.keep_alive
            and not (self._parser.surplus or self._sending or self._blocked or self.closed)
        ):
            self._keeper.keep(self)
        else:
            self.abort()
