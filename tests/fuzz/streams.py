"""Targets that take streams of bytes: wherever they are cut, they mean the same.

Owns: what must hold of readers of event streams, of HTTP's and gRPC's answers, of compression.
Does not know: where inputs come from.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any

from gateway.errors import EventTooLarge, UpstreamFailed
from gateway.inflate import PIECE_BYTES, InflateError, Inflater
from gateway.model import Event, Frames, LayerFinished
from gateway.sse import Decoder, Splitter, encode
from gateway.upstreams.answer_parser import (
    FIELDS_MAX,
    HEAD_BYTES_MAX,
    AnswerParser,
    NotHttp,
)
from gateway.upstreams.grpc_call import Call
from gateway.upstreams.http import HttpApi
from gateway.upstreams.http2 import Fields, Http2, Http2Error, Stream
from gateway.upstreams.pupau import PupauUpstream, _EventReader, _FrameReader, _TextReader
from tests.fuzz.cutting import cut

ROOMY = 1 << 20


def _decoded(pieces: Iterable[bytes], bound: int) -> tuple[list[Any], bool, Decoder]:
    decoder, frames = Decoder(bound), []
    try:
        for piece in (*pieces, b""):
            frames += decoder.feed(piece)
    except EventTooLarge:
        return frames, True, decoder
    return frames, False, decoder


def sse(data: bytes) -> None:
    """Both readers of event streams: the same events, cut anywhere; and what is written is read."""
    stream, pieces = cut(data)
    for bound in (ROOMY, 24):
        whole, over, decoder = _decoded([stream], bound)
        again, again_over, other = _decoded(pieces, bound)
        assert (again, again_over) == (whole, over)
        assert (other.retry, other.last_event_id) == (decoder.retry, decoder.last_event_id)
        assert other.pending == decoder.pending
        splitter, passed, count, split_over = Splitter(bound), b"", 0, False
        try:
            for piece in (*pieces, b""):
                run, events = splitter.feed(piece)
                passed, count = passed + run, count + events
        except EventTooLarge:
            split_over = True
        assert (count, split_over) == (len(whole), over)
        if not over:
            assert passed + splitter.rest == stream
            assert splitter.pending == decoder.pending
    written = encode(stream)
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    [frame] = Decoder(ROOMY).feed(written)
    assert frame.data == lines


class _Told:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[Event | bytes] = []
        self.passed = b""

    def begin(self, source: object) -> None:
        pass

    def complete(self) -> None:
        pass

    def frames(self, data: bytes, count: int) -> None:
        self.passed += data

    def texts(self, texts: Iterable[bytes]) -> None:
        self.events += texts

    def feed(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Frames):
                self.passed += event.data
            else:
                self.events.append(event)


class _Finished:
    """An answer that is told that nothing more of it is wanted."""

    finished = False

    def finish(self) -> None:
        self.finished = True


_UPSTREAM = PupauUpstream(
    HttpApi(name="far", url="http://far", key_header="Api-Key", key=None, answer_bytes_max=ROOMY),
    event_bytes_max=4096,
)
Reader = _EventReader | _FrameReader


def _pushed(reader: Reader, pieces: Iterable[bytes]) -> tuple[_Told, bool, str]:
    """What a reader of a remote stream makes of it, whether it ended well, and what is wrong."""
    told: Any = _Told()
    reader.begin(told, _Finished())  # type: ignore[arg-type]
    try:
        for piece in pieces:
            reader.push(piece)
        told.feed(event for event in reader.end() if reader is not None)
    except (UpstreamFailed, EventTooLarge) as error:
        return told, reader.finished, type(error).__name__
    return told, reader.finished, ""


def pupau_stream(data: bytes) -> None:
    """The three readers of a remote stream: each the same however it is cut, and all agree about
    how the run ended."""
    stream, pieces = cut(data)
    kinds: tuple[Callable[[PupauUpstream], Reader], ...] = (_EventReader, _TextReader, _FrameReader)
    ends, faults = [], []
    for kind in kinds:
        whole, finished, fault = _pushed(kind(_UPSTREAM), [stream])
        told, again, again_fault = _pushed(kind(_UPSTREAM), pieces)
        assert (again, again_fault) == (finished, fault)
        assert told.events == whole.events
        assert told.passed == whole.passed or kind is _FrameReader
        if kind is _FrameReader:
            assert stream.startswith(told.passed)
        last = [each for each in whole.events if isinstance(each, LayerFinished) and each.last]
        ends.append((finished, last[:1]))
        faults.append(fault)
    if not faults[0]:  # the others read less, and find less wrong
        assert faults == ["", "", ""]
        assert ends[1] == ends[0]
        assert ends[2][0] == ends[0][0]


def answer(data: bytes) -> None:
    """Answers of HTTP/1.1: the same cut anywhere, and within their bounds."""
    stream, pieces = cut(data)
    found = []
    for feeding in ([stream], pieces):
        parser, body, fault = AnswerParser(), b"", False
        for piece in feeding:
            done = parser.complete
            try:
                parser.feed(memoryview(piece))
            except NotHttp:
                fault = True
            came = parser.take()
            assert not (done and came)
            body += came
            if fault:
                break
        assert parser.complete or parser.head is None or parser.head.status >= 200
        ended = parser.eof() and not fault
        head = parser.head
        fields = {} if head is None else dict(head._fields)
        assert len(fields) <= FIELDS_MAX
        assert sum(map(len, fields.values())) <= HEAD_BYTES_MAX + 2 * FIELDS_MAX
        for name, value in fields.items():
            assert not {10, 13, 0} & {*name, *value}
        status = None if head is None else (head.status, head.keep_alive, head.coding)
        found.append((status, fields, body, fault, ended, parser.surplus))
        if head is not None and ended and head.status not in (204, 304):
            length = fields.get(b"content-length")
            assert length is None or int(length) == len(body)
        parser.close()
    assert found[0] == found[1]


def inflate(data: bytes) -> None:
    """Compressed bodies: in small pieces, the same as at once, and as zlib itself has it."""
    stream, pieces = cut(data)
    outcomes = []
    for feeding in ([stream], pieces):
        inflater, inflated, fault = Inflater("gzip"), b"", False
        try:
            for piece in feeding:
                for part in inflater.feed(piece):
                    assert 0 < len(part) <= PIECE_BYTES
                    inflated += part
                    if len(inflated) > 4 * ROOMY:
                        return  # whoever reads stops at a bound
        except InflateError:
            fault = True
        outcomes.append((inflated, fault, inflater.finished))
    # Of a body that is broken off by an error, how much came before it depends on the pieces.
    assert outcomes[0][1] == outcomes[1][1]
    if not outcomes[0][1]:
        assert outcomes[0] == outcomes[1]
        assert zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(stream) == outcomes[0][0]


class _Heard(Stream):
    """A stream that writes down what it is told."""

    def __init__(self, http2: Http2) -> None:
        super().__init__()
        self.told: list[object] = []
        self._http2 = http2

    def on_fields(self, fields: Fields) -> None:
        self.told.append(fields)

    def on_data(self, data: bytes) -> None:
        self.told.append(data)
        self._http2.taken(self, len(data))

    def on_end(self) -> None:
        self.told.append("end")

    def on_reset(self, code: int, *, unheard: bool) -> None:
        self.told.append((code, unheard))


def _check_frames(out: bytes) -> None:
    """What is sent is whole frames, none longer than the other side can have allowed."""
    at = 0
    while at < len(out):
        size = int.from_bytes(out[at : at + 3], "big")
        assert size < 2**24
        at += 9 + size
    assert at == len(out)


def http2(data: bytes) -> None:
    """A server's frames: nothing but Http2Error, the same cut anywhere, answered by frames."""
    stream, pieces = cut(data)
    found = []
    for feeding in ([stream], pieces):
        machine, fault, out = Http2(), False, b""
        streams = [_Heard(machine), _Heard(machine)]
        for each in streams:
            machine.start(each, b"\x82", [b"x" * 70_000])
        preface = machine.take()
        _check_frames(preface[24:])
        try:
            for piece in feeding:
                machine.feed(piece)
        except Http2Error:
            fault = True
        for _ in range(8):
            out += machine.take()
        _check_frames(out)
        assert len(machine._rest) < 16_384 + 9
        assert machine._block is None or len(machine._block) <= 2 * 64 * 1024
        assert sum(piece == b"" for piece in machine._out) == 0
        settled = (machine.settled, machine.going, machine.streams_max, sorted(machine.streams))
        found.append((fault, settled, [each.told for each in streams]))
    assert found[0] == found[1]


class _Carrier:
    """Counts what it is told to have been used."""

    count = 0

    def taken(self, call: Call, count: int) -> None:
        self.count += count


def grpc(data: bytes) -> None:
    """The messages within a gRPC answer: the same cut anywhere, none longer than allowed, and all
    that came is told to have been used once it is."""
    stream, pieces = cut(data)
    for whole in (False, True):
        found = []
        for feeding in ([stream], pieces):
            carrier = _Carrier()
            call = Call(carrier, 1000, whole=whole)
            call.on_fields(((b":status", b"200"), (b"content-type", b"application/grpc")))
            fed = 0
            for piece in feeding:
                if not call.ended:
                    fed += len(piece)
                call.on_data(piece)
            call.on_fields(((b"grpc-status", b"0"),))
            messages = []
            while call.messages:
                messages.append(call.take())
                assert len(messages[-1]) <= 1000
            assert carrier.count == fed
            assert call.ended
            failure = None if call.failure is None else (type(call.failure), str(call.failure))
            found.append((messages, failure))
        assert found[0] == found[1]
