"""Upstreams in Pupau's dialect: a query, answered by layers of actors, streamed or whole.

Owns: the outgoing query, JSON or multipart, and the reading of both kinds of answer.
Does not know: who asked, or in which dialect.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

import msgspec

from gateway.dialects.events import parse_event, parse_responses
from gateway.errors import Code, EventTooLarge, UpstreamFailed
from gateway.mediatype import extension
from gateway.model import Event, Frames, LayerFinished, Media
from gateway.sse import Decoder, Splitter, is_event_stream
from gateway.upstreams.answer import Answer
from gateway.upstreams.base import Call, Sink
from gateway.upstreams.http import HttpApi
from gateway.upstreams.outgoing import Body

# What a quoted parameter of a form part's header may not hold as it is.
_UNQUOTABLE: Final = re.compile(r'[\x00-\x1f\x7f"]')
#: How long an answer may go on after its last layer's end, seconds.
_END_S: Final = 1.0


class PupauUpstream:
    """A remote API in Pupau's dialect. ``event_bytes_max`` bounds one event of its streams."""

    kind = "pupau"
    layered = True
    executes = False

    def __init__(self, api: HttpApi, *, event_bytes_max: int) -> None:
        self.name = api.name
        self._api = api
        self.event_bytes_max = event_bytes_max

    async def stream(self, call: Call) -> AsyncIterator[Event]:
        """See ``Upstream.stream``.

        A caller who streams gets the remote events as they arrive, or, where ``call.frames`` asks
        for it, the bytes of whole frames unparsed and the last event parsed. Any other gets one
        ``LayerFinished`` with the list of responses.
        """
        if not call.request.stream:
            yield await self.call(call)
            return
        with await self._ask(call) as answer:
            reader = self._reader(call, answer)
            try:
                async with aclosing(answer.pieces()) as pieces:
                    async for piece in pieces:
                        for event in reader.feed(piece):
                            yield event
                        if reader.finished:
                            break
                    async with aclosing(_rest(pieces)) as rest:
                        async for piece in rest:
                            for event in reader.feed(piece):
                                yield event
                for event in reader.end():
                    yield event
            except EventTooLarge as error:
                raise self._api.invalid(error.message) from error

    async def relay(self, call: Call, sink: Sink) -> None:
        """See ``Pushing.relay``."""
        with await self._ask(call) as answer:
            reader: _FrameReader | _EventReader = self._reader(call, answer)
            if call.texts and not call.frames:
                reader = _TextReader(self)
            reader.begin(sink, answer)
            sink.begin(answer)
            try:
                await answer.relay(reader.push)
                if reader.finished:
                    sink.complete()
                if answer.unread:
                    # The run is complete, so that the rest breaks off or goes on for ever is no
                    # failure, and it is soon given up.
                    with suppress(TimeoutError, UpstreamFailed):
                        async with asyncio.timeout(_END_S):
                            await answer.relay(reader.push)
                sink.feed(reader.end())
            except EventTooLarge as error:
                raise self._api.invalid(error.message) from error

    async def call(self, call: Call) -> Event:
        """See ``Upstream.call``."""
        with await self._ask(call) as answer:
            return self._read_list(await answer.read(), call)

    async def _ask(self, call: Call) -> Answer:
        """Send the query; its answer, to be closed. Raises UpstreamFailed, UpstreamTimeout."""
        request = call.request
        return await self._api.post(
            _path(call.pipeline, request.stream),
            _body(call),
            request_id=request.request_id,
            connect_s=call.connect_s,
            accept="text/event-stream" if request.stream else "application/json",
            headers=request.headers,
            whole=not request.stream,
        )

    def _reader(self, call: Call, answer: Answer) -> _FrameReader | _EventReader:
        if not is_event_stream(answer.headers.get("content-type")):
            raise self._api.invalid(
                f"answered a streaming query with {answer.content_type}, not an event stream"
            )
        return _FrameReader(self) if call.frames else _EventReader(self)

    def _read_list(self, text: bytes, call: Call) -> LayerFinished:
        try:
            responses = parse_responses(text)
        except ValueError as error:
            raise self._api.invalid("its answer is not a JSON list of responses") from error
        return LayerFinished(call.layer_id, responses, last=True, raw=text)

    def parse(self, data: bytes) -> Event:
        """One event's JSON text. Raises UpstreamFailed."""
        try:
            return parse_event(data)
        except ValueError as error:
            raise self._api.invalid(f"an event of its stream cannot be read: {error}") from error

    def cut(self, where: str) -> UpstreamFailed:
        """The error for a stream that ended too early."""
        return UpstreamFailed(
            f"upstream {self.name}: its stream ended {where}", code=Code.UPSTREAM_FAILED
        )

    async def definition(self, pipeline: str, request_id: str) -> dict[str, Any]:
        """See ``Upstream.definition``: one node, since this dialect does not show its layers."""
        return {"nodes": [{"modelId": pipeline, "modelName": pipeline}], "edges": []}

    async def probe(self) -> None:
        """See ``Upstream.probe``: the dialect has nothing cheap to ask, so any answer will do."""
        try:
            (await self._api.get("/", request_id="ready", connect_s=2.0)).close()
        except UpstreamFailed as error:
            if error.code in (Code.UPSTREAM_UNREACHABLE, Code.UPSTREAM_BUSY):
                raise

    async def close(self) -> None:
        """See ``Upstream.close``."""
        await self._api.close()


async def _rest(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """What an answer has to say after its last layer's end. The run is complete, so that the rest
    breaks off or goes on for ever is no failure, and it is soon given up."""
    clock = asyncio.get_running_loop().time
    until = clock() + _END_S
    with suppress(StopAsyncIteration, TimeoutError, UpstreamFailed):
        while clock() < until:
            async with asyncio.timeout_at(until):
                piece = await anext(pieces)
            yield piece


#: Bytes have arrived, but no event.
_ALIVE: Final = Frames(b"", 0)


class _Typed(msgspec.Struct):
    """As much of an event as says that it is one."""

    type: str


_typed: Final = msgspec.json.Decoder(_Typed)


class _Reader:
    """Reads a stream's bytes: ``feed`` gives what a piece of them holds, ``push`` hands it on."""

    __slots__ = ("_answer", "_sink", "_upstream", "finished")

    def __init__(self, upstream: PupauUpstream) -> None:
        self._upstream = upstream
        self._sink: Sink
        self._answer: Answer | None = None
        #: Whether the last layer has ended.
        self.finished = False

    def begin(self, sink: Sink, answer: Answer) -> None:
        """What comes of ``answer`` will be pushed to ``sink``, until the last layer has ended."""
        self._sink, self._answer = sink, answer

    def _note(self, event: Event) -> bool:
        """Whether ``event`` is the last layer's end."""
        last = isinstance(event, LayerFinished) and event.last
        if last and not self.finished:
            self.finished = True
            if self._answer is not None:
                self._answer.finish()
        return last


class _EventReader(_Reader):
    """A stream's bytes as events, each parsed."""

    __slots__ = ("_decoder",)

    def __init__(self, upstream: PupauUpstream) -> None:
        super().__init__(upstream)
        self._decoder = Decoder(upstream.event_bytes_max)

    def feed(self, piece: bytes) -> Iterator[Event]:
        # One by one: those before an event that cannot be read are still passed on.
        silent = True
        for frame in self._decoder.feed(piece):
            silent = False
            event = self._upstream.parse(frame.data)
            self._note(event)
            yield event
        if silent:  # a comment, or a part of an event: the upstream is alive all the same
            yield _ALIVE

    def push(self, piece: bytes) -> None:
        self._sink.feed(self.feed(piece))

    def end(self) -> list[Event]:
        if self.finished:
            return []
        raise self._upstream.cut(
            "in mid-event" if self._decoder.pending else "before its last layer had answered"
        )


class _TextReader(_EventReader):
    """A stream's bytes as the JSON texts of its events; only one that may be the last is parsed, to
    know how the run ended."""

    __slots__ = ()

    def push(self, piece: bytes) -> None:
        sink, upstream, look = self._sink, self._upstream, _typed.decode
        texts: list[bytes] = []
        try:
            for frame in self._decoder.feed(piece):
                text = frame.data
                # An escaped quote keeps a model's text from looking like this key.
                if b'"last"' not in text:
                    try:
                        look(text)
                    except (ValueError, RecursionError):
                        # Half a character in an escape is no fault, which only this knows.
                        upstream.parse(text)
                    texts.append(text)
                    continue
                event = upstream.parse(text)
                self._note(event)
                before, texts = texts, []
                sink.texts(before)
                sink.feed((event,))
        finally:  # those before an event that cannot be read are still passed on
            sink.texts(texts)


class _FrameReader(_Reader):
    """A stream's bytes as whole frames, untouched; only one that may be the last is parsed, to know
    how the run ended."""

    __slots__ = ("_last", "_splitter")

    def __init__(self, upstream: PupauUpstream) -> None:
        super().__init__(upstream)
        self._splitter = Splitter(upstream.event_bytes_max)
        self._last: Event | None = None

    def feed(self, piece: bytes) -> Iterator[Event]:
        data, count = self._splitter.feed(piece)
        yield Frames(data, count) if data else _ALIVE
        if count and b'"last"' in data and not self.finished:
            self._look(data)

    def push(self, piece: bytes) -> None:
        data, count = self._splitter.feed(piece)
        self._sink.frames(data, count)
        if count and b'"last"' in data and not self.finished:
            self._look(data)

    def _look(self, data: bytes) -> None:
        for frame in Decoder(len(data) + 1).feed(data):
            if b'"last"' in frame.data:
                event = self._upstream.parse(frame.data)
                if self._note(event):
                    self._last = event
                    return

    def end(self) -> list[Event]:
        if self._last is not None:
            return [self._last]
        raise self._upstream.cut(
            "in mid-event" if self._splitter.pending else "before its last layer had answered"
        )


@lru_cache(1024)
def _path(pipeline: str, stream: bool) -> str:
    return f"/pipelines/{quote(pipeline, safe='')}/queries?sse={'true' if stream else 'false'}"


def _body(call: Call) -> Body:
    """JSON where there are no files, else a form with the files beside the fields."""
    media = call.request.media
    if not media:
        return Body("application/json", [msgspec.json.encode(call.body)])
    boundary = secrets.token_hex(16)
    segments: list[bytes | Media] = []
    for name, value in call.body.items():
        text = msgspec.json.encode(value)
        if text.startswith(b'"'):
            text = msgspec.json.decode(text, type=str).encode()
        segments += (
            f"--{boundary}\r\nContent-Disposition: form-data; "
            f'name="{_quoted(name)}"\r\n\r\n'.encode(),
            text,
            b"\r\n",
        )
    for item in media:
        filename = item.filename or item.id + extension(item.content_type)
        segments += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; '
            f'filename="{_quoted(filename)}"\r\nContent-Type: {item.content_type}\r\n\r\n'.encode(),
            item,
            b"\r\n",
        )
    segments.append(f"--{boundary}--\r\n".encode())
    return Body(f"multipart/form-data; boundary={boundary}", segments)


def _quoted(value: str) -> str:
    """A header parameter's text: a line break or a quote in a file name cannot end it."""
    return _UNQUOTABLE.sub(lambda match: f"%{ord(match.group()):02X}", value)
