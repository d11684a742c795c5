"""The client's half of HTTP/2, as far as gRPC needs it: bytes in, what they mean for each stream
out, and the bytes that are to be sent.

Owns: frames, the settings of both sides, flow control both ways, streams and their order, and the
writing of header blocks. Of the server's header blocks the library hpack reads each kind once: no
dynamic table is allowed, so that equal bytes always have the same meaning.
Does not know: sockets, time, what the streams carry.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from typing import Final

from hpack import Decoder, HPACKError

Fields = tuple[tuple[bytes, bytes], ...]

#: What a server may send of one stream before it is told that it was taken, bytes.
STREAM_WINDOW: Final = 1024 * 1024
#: The same of all streams together.
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
#: The codes of a stream's end that mean something here.
CANCEL: Final = 0x8
REFUSED_STREAM: Final = 0x7
ENHANCE_YOUR_CALM: Final = 0xB
INADEQUATE_SECURITY: Final = 0xC

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH_PROMISE = 0, 1, 3, 4, 5
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _CONCURRENT_MAX = 1, 2, 3
_INITIAL_WINDOW, _FRAME_BYTES_MAX, _HEADER_LIST_BYTES_MAX = 4, 5, 6

_HEAD: Final = struct.Struct(">HBBBL")
_SETTING: Final = struct.Struct(">HL")
_NUMBER: Final = struct.Struct(">L")
#: The longest frame that either side sends unless it is told that more will do, bytes.
_FRAME_BYTES: Final = 16_384
#: The longest that is sent where it may be longer, bytes.
_LONG_FRAME_BYTES: Final = 65_536
_BLOCK_BYTES_MAX: Final = 64 * 1024
_WINDOW_MAX: Final = 2**31 - 1
_LAST_ID: Final = 2**31 - 1
#: What is written at one go of bodies, bytes.
_SENT_AT_ONCE: Final = 256 * 1024
_KINDS_MAX: Final = 64
#: A header block that is longer is read each time, bytes.
_KIND_BYTES_MAX: Final = 4096
#: How many answers wait for a server that reads none before it has asked for too many.
_ANSWERS_MAX: Final = 1000
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Http2Error(Exception):
    """The server breaks the protocol; nothing more can be said on the connection."""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = len(payload)
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def field(name: bytes, value: bytes) -> bytes:
    """One field of a header block, written out and kept in no table."""
    return b"\0" + _length(len(name)) + name + _length(len(value)) + value


def _length(number: int) -> bytes:
    """The length of a string that is not compressed: seven bits, and more bytes where they do not
    do."""
    if number < 127:
        return bytes((number,))
    written = bytearray((127,))
    number -= 127
    while number >= 128:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


class Stream:
    """One stream; a subclass says what becomes of it.

    ``open``: whether the server may still send on it. What is not told by ``on_end`` or
    ``on_reset`` ends with the connection.
    """

    __slots__ = ("held", "id", "open", "pending", "untold", "window")

    def __init__(self) -> None:
        self.id = 0
        self.open = False
        #: What is still to be sent, and what of it the server has room for.
        self.pending: deque[memoryview] = deque()
        self.window = 0
        #: What was received that the server has not been told to have been taken, and what of it
        #: was, bytes.
        self.held = 0
        self.untold = 0

    def on_fields(self, fields: Fields) -> None:
        """A header block has come: the first, or one after the body."""

    def on_data(self, data: bytes) -> None:
        """A piece of the body. Whoever has used it says so by ``Http2.taken``."""

    def on_end(self) -> None:
        """The server has sent all."""

    def on_reset(self, code: int, *, unheard: bool) -> None:
        """The server wants no more of it; ``unheard``: it has done nothing with it so far."""


class Http2:
    """One connection. What is to be sent next is in ``take``; every call may add to it.

    ``first_id`` is the number of its first stream, which is odd.
    """

    def __init__(self, first_id: int = 1) -> None:
        #: Whether the server has spoken.
        self.settled = False
        #: Whether no more streams can be opened.
        self.going = False
        #: Whether a ping waits for its answer.
        self.pinged = False
        self.streams: dict[int, Stream] = {}
        #: How many the server bears at a time.
        self.streams_max = _WINDOW_MAX
        self._next_id = first_id
        self._rest = b""
        self._block: bytearray | None = None
        self._block_of = (0, 0)
        self._decoder = Decoder(max_header_list_size=_BLOCK_BYTES_MAX)
        self._decoder.max_allowed_table_size = 0
        self._decoder.header_table_size = 0
        self._known: dict[bytes, Fields] = {}
        self._window = 65_535
        self._stream_window = 65_535
        self._frame_bytes = _FRAME_BYTES
        #: Whether bodies have to wait.
        self.blocked = False
        self._untold = 0
        self._sending: deque[Stream] = deque()
        self._out: list[bytes | memoryview] = []
        self._answers = 0
        #: Of streams from this number on, nothing has been sent.
        self.unsent_id = first_id
        settings = (
            (_HEADER_TABLE_SIZE, 0),
            (_ENABLE_PUSH, 0),
            (_INITIAL_WINDOW, STREAM_WINDOW),
            (_HEADER_LIST_BYTES_MAX, _BLOCK_BYTES_MAX),
        )
        payload = b"".join(_SETTING.pack(*setting) for setting in settings)
        self._out += (_PREFACE, _frame(_SETTINGS, 0, 0, payload))
        self._widen(0, CONNECTION_WINDOW - 65_535)

    # What is to be sent

    def take(self) -> bytes:
        """What is to be sent now; of bodies, at most a piece, and ``more`` tells of the rest."""
        if self._sending and not self.blocked:
            self._send_bodies()
        if not self._out:
            return b""
        self.unsent_id = self._next_id
        out = b"".join(self._out)
        self._out.clear()
        return out

    @property
    def more(self) -> bool:
        """Whether there is more that could be sent at once."""
        if self.blocked or self._window <= 0:
            return False
        return any(stream.window > 0 for stream in self._sending)

    def start(self, stream: Stream, block: bytes, body: Iterable[bytes]) -> None:
        """Open ``stream``, ask by the header ``block``, and send all of ``body``, which is not
        empty."""
        stream.id, self._next_id = self._next_id, self._next_id + 2
        if self._next_id > _LAST_ID:
            self.going = True
        stream.open = True
        stream.window = self._stream_window
        self.streams[stream.id] = stream
        kind, size = _HEADERS, self._frame_bytes
        for start in range(0, len(block), size):
            flags = _END_HEADERS if start + size >= len(block) else 0
            self._out.append(_frame(kind, flags, stream.id, block[start : start + size]))
            kind = _CONTINUATION
        stream.pending.extend(memoryview(piece) for piece in body if len(piece))
        self._sending.append(stream)

    def cancel(self, stream: Stream) -> None:
        """Nothing more of ``stream`` is wanted."""
        if self.streams.pop(stream.id, None) is not None:
            self._forget(stream)
            self._out.append(_frame(_RST_STREAM, 0, stream.id, _NUMBER.pack(CANCEL)))

    def taken(self, stream: Stream, count: int) -> None:
        """``count`` bytes of ``stream``'s body have been used, and there is room for others."""
        stream.untold += count
        if stream.open and stream.untold * 2 >= STREAM_WINDOW:
            self._widen(stream.id, stream.untold)
            stream.held -= stream.untold
            stream.untold = 0

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.pinged = True
        self._out.append(_frame(_PING, 0, 0, b"gateway!"))

    def _answer(self, frame: bytes) -> None:
        """Say what the server's own words ask for, unless it asks and does not listen."""
        self._answers = self._answers + 1 if self.blocked else 0
        if self._answers > _ANSWERS_MAX:
            raise Http2Error("more to be answered than it reads")
        self._out.append(frame)

    def _widen(self, stream_id: int, count: int) -> None:
        self._out.append(_frame(_WINDOW_UPDATE, 0, stream_id, _NUMBER.pack(count)))

    def _send_bodies(self) -> None:
        """Frames of what is to be sent, as many as there is room for, each stream in its turn."""
        left = _SENT_AT_ONCE
        for _ in range(len(self._sending)):
            stream = self._sending.popleft()
            while left > 0 and stream.pending:
                size = min(left, self._frame_bytes, self._window, stream.window)
                if size <= 0:
                    break
                left -= self._send_piece(stream, size)
            if stream.pending:
                self._sending.append(stream)
            if left <= 0:
                break

    def _send_piece(self, stream: Stream, size: int) -> int:
        piece = stream.pending.popleft()
        if len(piece) > size:
            stream.pending.appendleft(piece[size:])
            piece = piece[:size]
        size = len(piece)
        flags = 0 if stream.pending else _END_STREAM
        self._out += (_HEAD.pack(size >> 8, size & 0xFF, _DATA, flags, stream.id), piece)
        self._window -= size
        stream.window -= size
        return size

    def _forget(self, stream: Stream) -> None:
        stream.open = False
        if stream.pending:
            stream.pending.clear()
            self._sending.remove(stream)

    # What has come

    def feed(self, data: bytes) -> None:
        """Bytes as they arrived.

        Raises:
            Http2Error: what came before it has been handed on.
        """
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 9:
            high, low, kind, flags, stream_id = _HEAD.unpack_from(data, at)
            length = high << 8 | low
            if length > _FRAME_BYTES:
                raise Http2Error(f"a frame of {length} bytes")
            if end - at - 9 < length:
                break
            at += 9 + length
            self._read(kind, flags, stream_id & _WINDOW_MAX, data[at - length : at])
        self._rest = data[at:]

    def _read(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self.settled and kind != _SETTINGS:
            raise Http2Error("no settings at first")
        if self._block is not None and kind != _CONTINUATION:
            raise Http2Error("a header block that does not go on")
        if kind == _DATA:
            self._read_data(flags, stream_id, payload)
        elif kind == _HEADERS:
            self._read_headers(flags, stream_id, payload)
        elif kind == _WINDOW_UPDATE:
            self._read_window(stream_id, payload)
        elif kind == _PING:
            self._read_ping(flags, payload)
        elif kind == _SETTINGS:
            self._read_settings(flags, payload)
        elif kind == _RST_STREAM:
            self._read_reset(stream_id, payload)
        elif kind == _GOAWAY:
            self._read_goaway(payload)
        elif kind == _CONTINUATION:
            self._read_continuation(flags, stream_id, payload)
        elif kind == _PUSH_PROMISE:
            raise Http2Error("a stream that nobody asked for")
        # Priorities, and kinds that are not known, mean nothing.

    def _read_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        # Padding takes room, too.
        self._untold += len(payload)
        if self._untold * 2 >= CONNECTION_WINDOW:
            self._widen(0, self._untold)
            self._untold = 0
        stream = self._stream(stream_id)
        if stream is None:
            return
        stream.held += len(payload)
        if stream.held > STREAM_WINDOW:
            raise Http2Error("more of a stream than there is room for")
        data = _unpadded(flags, payload)
        if len(payload) > len(data):
            self.taken(stream, len(payload) - len(data))
        if data:
            stream.on_data(data)
        if flags & _END_STREAM:
            self._end(stream)

    def _read_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = _unpadded(flags, payload)
        if flags & _PRIORITY:
            block = block[5:]
        if flags & _END_HEADERS:
            self._read_block(flags, stream_id, block)
        else:
            self._block, self._block_of = bytearray(block), (flags, stream_id)

    def _read_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None or stream_id != self._block_of[1]:
            raise Http2Error("the end of a header block that was not begun")
        self._block += payload
        if len(self._block) > _BLOCK_BYTES_MAX:
            raise Http2Error("a header block without an end")
        if flags & _END_HEADERS:
            block, self._block = bytes(self._block), None
            self._read_block(self._block_of[0], stream_id, block)

    def _read_block(self, flags: int, stream_id: int, block: bytes) -> None:
        stream = self._stream(stream_id)
        fields = self._known.get(block)
        if fields is None:
            try:
                decoded = self._decoder.decode(block, raw=True)
                fields = tuple((bytes(name), bytes(value)) for name, value in decoded)
            except HPACKError as error:
                raise Http2Error(f"a header block that cannot be read: {error}") from error
            if len(self._known) == _KINDS_MAX:
                self._known.clear()
            if len(block) <= _KIND_BYTES_MAX:
                self._known[block] = fields
        if stream is not None:
            stream.on_fields(fields)
            if flags & _END_STREAM:
                self._end(stream)

    def _read_reset(self, stream_id: int, payload: bytes) -> None:
        stream = self._stream(stream_id)
        if stream is not None:
            code = _number(payload)
            del self.streams[stream_id]
            self._forget(stream)
            stream.on_reset(code, unheard=code == REFUSED_STREAM)

    def _read_settings(self, flags: int, payload: bytes) -> None:
        if flags & _ACK:
            return
        if len(payload) % 6:
            raise Http2Error("settings that are cut short")
        # Of one that is said more than once, the last counts.
        for setting, value in dict(_SETTING.iter_unpack(payload)).items():
            if setting == _CONCURRENT_MAX:
                self.streams_max = value
            elif setting == _FRAME_BYTES_MAX:
                if not _FRAME_BYTES <= value < 2**24:
                    raise Http2Error(f"frames of {value} bytes")
                self._frame_bytes = min(value, _LONG_FRAME_BYTES)
            elif setting == _INITIAL_WINDOW:
                if value > _WINDOW_MAX:
                    raise Http2Error(f"a window of {value} bytes")
                for stream in self.streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
        self.settled = True
        self._answer(_frame(_SETTINGS, _ACK, 0, b""))

    def _read_ping(self, flags: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise Http2Error("a ping that is cut short")
        if flags & _ACK:
            self.pinged = False
        else:
            self._answer(_frame(_PING, _ACK, 0, payload))

    def _read_goaway(self, payload: bytes) -> None:
        self.going = True
        last = _number(payload) & _WINDOW_MAX
        for stream in [each for each in self.streams.values() if each.id > last]:
            del self.streams[stream.id]
            self._forget(stream)
            stream.on_reset(REFUSED_STREAM, unheard=True)

    def _read_window(self, stream_id: int, payload: bytes) -> None:
        count = _number(payload) & _WINDOW_MAX
        if stream_id == 0:
            self._window += count
            if not count or self._window > _WINDOW_MAX:
                raise Http2Error("a window that cannot be")
        elif (stream := self._stream(stream_id)) is not None:
            stream.window += count

    def _stream(self, stream_id: int) -> Stream | None:
        """The stream of that number; ``None`` where nobody wants it any more."""
        stream = self.streams.get(stream_id)
        if stream is None and (stream_id % 2 == 0 or stream_id >= self._next_id):
            raise Http2Error(f"something of stream {stream_id}, which there is not")
        return stream

    def _end(self, stream: Stream) -> None:
        """The server has sent all; what has not been sent to it by now, it does not want."""
        if self.streams.pop(stream.id, None) is None:
            return  # whoever it is for has cancelled it meanwhile
        if stream.pending:
            self._out.append(_frame(_RST_STREAM, 0, stream.id, _NUMBER.pack(CANCEL)))
        self._forget(stream)
        stream.on_end()


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Http2Error("more padding than there is room for")
    return payload[1 : len(payload) - payload[0]]


def _number(payload: bytes) -> int:
    """The number that a frame begins with."""
    if len(payload) < 4:
        raise Http2Error("a frame that is cut short")
    return int.from_bytes(payload[:4], "big")
