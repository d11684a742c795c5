"""One answer while it is read: whole, piece by piece, or handed on as it arrives.

Owns: what has arrived and nobody has taken yet, when more of it is to be read, inflating, and the
bound on the whole.
Does not know: sockets, framing, where the answer came from; its connection hands it the bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Final, Protocol, Self

from gateway.errors import GatewayError
from gateway.inflate import InflateError, Inflater
from gateway.upstreams.answer_parser import Head

#: What may have arrived and not been taken before nothing more is read, bytes.
UNREAD_BYTES_MAX: Final = 64 * 1024
_NO_HEAD: Final = Head(0, {}, keep_alive=False)


class Broken(Exception):
    """The connection ended before its answer did. ``received``: after some of it had come."""

    def __init__(self, *, received: bool) -> None:
        super().__init__(received)
        self.received = received


class Channel(Protocol):
    """The connection that an answer comes on, until its end."""

    def pause(self) -> None:
        """Read nothing more."""

    def resume(self) -> None:
        """Go on."""

    def abort(self) -> None:
        """Close it at once."""


class Source(Protocol):
    """Whose answers these are."""

    @property
    def answer_bytes_max(self) -> int:
        """The longest that is read whole, bytes."""

    def invalid(self, what: str) -> GatewayError:
        """The error for an answer that cannot be read."""

    def failure(self, error: Exception) -> GatewayError:
        """What an error of the connection is for the caller."""


class Answer:
    """An answer whose head has come.

    Read it in one way: ``read``, ``pieces`` or ``relay``, and ``close`` it at the end, or use it
    in a ``with`` statement. All three raise the project's errors, and end the connection where they
    are cancelled.
    """

    __slots__ = (
        "_channel", "_feed", "_finished", "_held", "_held_bytes", "_paused",
        "_raised", "_source", "_waiter", "ended", "error", "headers", "status", "whole",
    )  # fmt: skip

    def __init__(self, source: Source, *, whole: bool = False) -> None:
        self._source = source
        self._channel: Channel | None = None
        #: The header fields, by name in lower case.
        self.headers = _NO_HEAD
        #: The status, 0 until the head has come.
        self.status = 0
        self._held: list[bytes] = []
        self._held_bytes = 0
        #: Whether nothing more will come of it.
        self.ended = False
        #: What ended it, where that was not its own end.
        self.error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._feed: Callable[[bytes], None] | None = None
        self._finished = False
        #: What ``feed`` raised.
        self._raised: Exception | None = None
        self._paused = False
        #: Whether it is read whole, so that much may be read at a time.
        self.whole = whole

    @property
    def content_type(self) -> str:
        """The media type without its parameters, in lower case; RFC 9110's where it has none."""
        value = self.headers.get("content-type").partition(";")[0].strip().lower()
        return value or "application/octet-stream"

    @property
    def unread(self) -> bool:
        """Whether there is something that nobody has taken, or may still be."""
        return bool(self._held) or not self.ended

    async def read(self) -> bytes:
        """The whole body, inflated, of at most ``answer_bytes_max`` bytes.

        Raises:
            UpstreamFailed: it is longer, breaks off, or cannot be inflated.
        """
        if self.headers.coding:
            return await self._read_inflated()
        self.whole = True
        if self._held_bytes > self._source.answer_bytes_max:
            self._end(self._too_long())
        if not self.ended:
            self.resume()
            while not self.ended:
                await self.wait()
        self.raise_failure()
        return self._take()

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The body as it arrives; a compressed one is inflated in small pieces.

        Raises:
            UpstreamFailed: it breaks off, or cannot be inflated; what came before is given first.
        """
        coding = self.headers.coding
        try:
            inflater = Inflater(coding) if coding else None
            while self._held or not self.ended:
                if not self._held:
                    self._read_on()
                    await self.wait()
                    continue
                data = self._take()
                if inflater is None:
                    yield data
                    continue
                for inflated in inflater.feed(data):
                    yield inflated
                    # A bomb inflates for long without waiting for the network: let others run.
                    await asyncio.sleep(0)
        except InflateError as error:
            raise self._source.invalid(str(error)) from error
        self.raise_failure()
        if inflater is not None and not inflater.finished:
            raise self._source.invalid("its compressed answer was cut short")

    async def relay(self, feed: Callable[[bytes], None]) -> None:
        """Hand the body on as it arrives, until its end or until ``finish`` is called.

        ``feed`` is called once for each read of the socket, from within it, with all bytes of the
        body that it brought; of a compressed answer, with small inflated pieces. What it raises
        closes the connection and is raised here.

        Raises:
            UpstreamFailed: as ``pieces``.
        """
        if self.headers.coding:
            await self._relay_inflated(feed)
            return
        self._read_on()
        self._finished = False
        self._feed = feed
        if self._held:
            self.arrived(self._take())
        try:
            while not (self._finished or self.ended):
                await self.news()
        except BaseException:
            self.close()
            raise
        self._feed = None
        if self._raised is not None:
            raise self._raised
        if not self._finished:
            self.raise_failure()

    def finish(self) -> None:
        """From within ``feed``: ``relay`` returns, and what arrives later is read in another way,
        if at all."""
        self._finished = True
        self._feed = None
        self.wake()

    def pause(self) -> None:
        """Read nothing more from the socket until ``resume``: the upstream is held back."""
        self._paused = True
        if self._channel is not None:
            self._channel.pause()

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            self.wake()
        if self._channel is not None:
            self._channel.resume()

    def close(self) -> None:
        """Nobody reads it any more. Where it is not complete, its connection is closed: that is how
        the upstream learns of it."""
        self._finished = True
        self._feed = None
        self._held.clear()
        self._held_bytes = 0
        if not self.ended:
            self._end(Broken(received=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # What its connection tells it, and waits for.

    def opened(self, channel: Channel) -> None:
        """The request goes out on ``channel``."""
        self._channel = channel

    def begun(self, head: Head) -> None:
        """Its head has."""
        self.headers = head
        self.status = head.status
        if self.whole and head.status == 200 and not head.coding:
            return  # whoever waits for the whole of it has nothing to do before that is there
        self.whole = False
        self.wake()

    def arrived(self, data: bytes) -> None:
        """Some of the body has."""
        if self._feed is not None:
            try:
                self._feed(data)
            except Exception as error:  # noqa: BLE001  relay raises it
                self._raised = error
                self.close()
                self.wake()
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if not self.whole:
            if self._held_bytes > UNREAD_BYTES_MAX and self._channel is not None:
                self._channel.pause()
            self.wake()
        elif self._held_bytes > self._source.answer_bytes_max:
            self._end(self._too_long())

    def completed(self) -> None:
        """The answer has all come; its connection may serve others from here on."""
        self.ended = True
        self._channel = None

    def failed(self, error: Exception) -> None:
        """The connection ended before the answer did."""
        self.error = error
        self.ended = True
        self._channel = None
        self.wake()

    def wake(self) -> None:
        """Whoever waits looks again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        """Until there is something new. Cancelled, it ends the connection."""
        try:
            await self.news()
        except BaseException:
            self.close()
            raise

    def news(self) -> asyncio.Future[None]:
        """Done when there is something new. Where the wait for it is cancelled, ``close`` is to be
        called."""
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        return waiter

    def raise_failure(self) -> None:
        """Raise what ended the answer, where that was not its own end."""
        error = self.error
        if error is None:
            return
        if isinstance(error, GatewayError):
            raise error
        raise self._source.failure(error) from error

    def _read_on(self) -> None:
        """There is room for more, and where whoever takes it has paused it, it waits all the same:
        it may be paused from one ``relay`` to the next."""
        if self._channel is not None and not self._paused:
            self._channel.resume()

    def _take(self) -> bytes:
        held = self._held
        data = held[0] if len(held) == 1 else b"".join(held)
        held.clear()
        self._held_bytes = 0
        return data

    def _too_long(self) -> GatewayError:
        limit = self._source.answer_bytes_max
        return self._source.invalid(f"its answer is longer than answer_bytes_max ({limit} bytes)")

    def _end(self, error: Exception) -> None:
        channel = self._channel
        self.failed(error)
        if channel is not None:
            channel.abort()

    async def _read_inflated(self) -> bytes:
        length = 0
        inflated = []
        async with aclosing(self.pieces()) as arriving:
            async for piece in arriving:
                length += len(piece)
                if length > self._source.answer_bytes_max:
                    self.close()
                    raise self._too_long()
                inflated.append(piece)
        return b"".join(inflated)

    async def _relay_inflated(self, feed: Callable[[bytes], None]) -> None:
        self._finished = False
        async with aclosing(self.pieces()) as arriving:
            async for piece in arriving:
                try:
                    feed(piece)
                except Exception:
                    self.close()
                    raise
                while self._paused and not self._finished:
                    await self.wait()
                if self._finished:
                    return
