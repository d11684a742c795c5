"""Server-Sent Events by the WHATWG rules: bytes in, frames out, and back.

A stream is first cut into whole frames, a frame being everything up to and including a blank line;
``Decoder`` then reads the fields of each, ``Splitter`` only counts them and hands the bytes on as
they came. Both take chunks of any size: where the stream is split never changes what it means.

Owns: line ends, the byte order mark, comments, fields, the bound on one event, and writing frames.
Does not know: JSON, dialects, HTTP, who is reading or how long it takes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.errors import EventTooLarge

_BOM: Final = b"\xef\xbb\xbf"
_CR: Final = 13
_LF: Final = 10
_WHOLE_FRAME_ENDS: Final = (b"\n\n", b"\r\n\r\n")
#: A blank line after a line, and all blank lines that follow. The pair ``\r\n`` is one line end, so
#: a blank line starts exactly where an LF follows an LF or a CR follows either of them.
_BLANK_LINES: Final = re.compile(rb"(?:\n\n|[\r\n]\r)[\r\n]*")
_DATA_FIELD: Final = re.compile(rb"^data(?::|$)", re.MULTILINE)
_DIGITS: Final = re.compile(rb"0*([0-9]+)")
_NEWLINE_OR_NUL: Final = re.compile("[\r\n\0]")
#: A longer delay is taken for this one (285 years, and exact in any JSON reader).
RETRY_MS_MAX: Final = 2**53 - 1


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One event as a consumer sees it. ``data`` is UTF-8 as it arrived, lines joined with LF.

    A struct and not a dataclass, because one is made for every event and it costs an eighth.
    """

    data: bytes
    event: str = "message"
    last_event_id: str = ""

    @property
    def text(self) -> str:
        """``data`` as text; what is not UTF-8 becomes U+FFFD, as the rules have it."""
        return self.data.decode("utf-8", "replace")


class _Cutter:
    """Gives out whole frames and keeps the rest, never more of it than ``event_bytes_max``.

    The size of an event is that of its lines with their line ends, comments included, without the
    blank line that ends it and without a byte order mark.
    """

    __slots__ = ("_failed", "_held", "_max", "_started", "clear")

    def __init__(self, event_bytes_max: int) -> None:
        self._max = event_bytes_max
        self._held = bytearray()
        self._started = False  # whether the byte order mark, if there is one, is behind us
        self._failed = False
        #: Nothing held, nothing special: a chunk of whole frames, no longer than one event may be,
        #: is its own cut.
        self.clear = False

    @property
    def rest(self) -> bytes:
        """What is held: the bytes of a frame that has not ended."""
        return bytes(self._held)

    @property
    def pending(self) -> bool:
        """Whether the stream would be cut in mid-event if it ended now. A comment is no event."""
        return self._failed or any(line[:1] != b":" for line in self.rest.splitlines())

    def feed(self, chunk: bytes) -> bytes:
        """The whole frames that are there now, a byte order mark before the first of them.

        Frames before an event that is too long are still given out; the next call raises.
        """
        if self.clear and chunk.endswith(_WHOLE_FRAME_ENDS) and len(chunk) <= self._max:
            return chunk
        self.check()
        held = self._held
        # Two line ends may lie on either side of the seam, so the last byte is looked at again.
        scan = max(len(held) - 1, 0)
        raw: bytes | bytearray = chunk
        if held:
            held += chunk
            raw = held
        if not self._started:
            if len(raw) < len(_BOM) and _BOM.startswith(raw):
                self._held = bytearray(raw)
                return b""
            self._started = True
            if raw.startswith(_BOM):
                self._held = bytearray()
                return _BOM + self.feed(bytes(raw[len(_BOM) :]))
        cut = self._bounded_cut(raw, scan) if len(raw) > self._max else _cut(raw, scan)
        frames = bytes(raw[:cut])
        if self._failed:
            self._held = bytearray()
        elif held:
            del held[:cut]
        else:
            self._held = bytearray(chunk[cut:])
        self.clear = not (self._held or self._failed)
        return frames

    def check(self) -> None:
        """Raise ``EventTooLarge`` if an event has passed the bound."""
        if self._failed:
            raise EventTooLarge(f"one event is longer than event_bytes_max ({self._max} bytes)")

    def _bounded_cut(self, raw: bytes | bytearray, scan: int) -> int:
        """``_cut``, or the start of the first event that is too long."""
        start = _leading_line_end(raw)
        for blank in _BLANK_LINES.finditer(raw, scan):
            if blank.start() + 1 - start > self._max:
                self._failed = True
                return start
            start = blank.end()
        self._failed = len(raw) - start > self._max
        return start


def _cut(raw: bytes | bytearray, scan: int) -> int:
    """The end of the last blank line in ``raw``, of which no blank line ends before ``scan``."""
    end = raw.rfind(b"\n\n", scan) + 2
    if raw.find(b"\r", scan) >= 0:
        end = max(end, raw.rfind(b"\n\r", scan) + 2, raw.rfind(b"\r\r", scan) + 2)
    if end < 2:
        return _leading_line_end(raw)
    return end + 1 if raw[end - 1 : end + 1] == b"\r\n" else end


def _leading_line_end(raw: bytes | bytearray) -> int:
    """Length of the line end that ``raw`` starts with.

    Only what follows a finished frame starts with one: an empty frame, or the LF of a CRLF whose CR
    came in the chunk before. Waiting for that LF would hold the frame back.
    """
    return 2 if raw.startswith(b"\r\n") else int(raw.startswith((b"\r", b"\n")))


def _lf_only(frames: bytes) -> bytes:
    if _CR in frames:
        return frames.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return frames


class Decoder:
    """Reads the events of one stream.

    Args:
        event_bytes_max: the longest event taken, bytes, counted with field names and comments.
        last_event_id: the ID to start from, where the stream is the continuation of another.
    """

    __slots__ = ("_cutter", "_max", "_retry", "_started", "last_event_id")

    def __init__(self, event_bytes_max: int, *, last_event_id: str = "") -> None:
        self._max = event_bytes_max
        self._cutter = _Cutter(event_bytes_max)
        self._retry: int | None = None
        self._started = False
        #: The ID of the last whole event that set one.
        self.last_event_id = last_event_id

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended: a stream that ends now was cut."""
        return self._cutter.pending

    @property
    def retry(self) -> int | None:
        """The delay before reconnecting that the stream asked for last, milliseconds.

        It counts as soon as its line has ended, whether or not its event ever does.
        """
        retry = self._retry
        for line in _lf_only(self._cutter.rest).split(b"\n")[:-1]:
            name, value = _field(line)
            if name == b"retry":
                retry = _milliseconds(value, retry)
        return retry

    def feed(self, chunk: bytes) -> list[Frame]:
        """The events that ``chunk`` completes.

        Raises:
            EventTooLarge: an event passed the bound. Events before it in the same chunk are
                returned first; then the next call raises, even with ``b""``, and ``pending`` is
                true.
        """
        size = len(chunk)
        if (
            chunk[:6] == b"data: "
            and chunk.find(b"\n") == size - 2
            and chunk[-1:] == b"\n"
            and _CR not in chunk
            and self._cutter.clear
            and size <= self._max
        ):  # as with most that come one by one
            return [Frame(chunk[6:-2], "message", self.last_event_id)]
        frames: list[Frame] = []
        text = self._cutter.feed(chunk)
        if text and not self._started:
            self._started = True
            text = text.removeprefix(_BOM)
        for block in _lf_only(text).split(b"\n\n"):
            if block.startswith(b"data: ") and _LF not in block:
                frames.append(Frame(block[6:], "message", self.last_event_id))
            elif block:
                frame = self._parse(block)
                if frame is not None:
                    frames.append(frame)
        if not frames:
            self._cutter.check()
        return frames

    def _parse(self, block: bytes) -> Frame | None:
        """The event of one block of lines, if it has data; takes over its ``id`` and ``retry``."""
        data: list[bytes] = []
        event = b""
        for line in block.split(b"\n"):
            name, value = _field(line)
            if name == b"data":
                data.append(value)
            elif name == b"event":
                event = value
            elif name == b"id":
                if b"\0" not in value:
                    self.last_event_id = value.decode("utf-8", "replace")
            elif name == b"retry":
                self._retry = _milliseconds(value, self._retry)
        if not data:
            return None
        kind = event.decode("utf-8", "replace") or "message"
        return Frame(b"\n".join(data), kind, self.last_event_id)


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Name and value of a line. A comment's name is empty, and so is a blank line's."""
    name, _, value = line.partition(b":")
    return name, value.removeprefix(b" ")


def _milliseconds(value: bytes, otherwise: int | None) -> int | None:
    digits = _DIGITS.fullmatch(value)
    if digits is None:
        return otherwise
    # Python refuses to read thousands of digits; 17 are enough to be over the most there can be.
    return min(int(digits[1][:17]), RETRY_MS_MAX)


class Splitter:
    """Cuts a stream into runs of whole frames without reading them, for passing them on.

    Args:
        event_bytes_max: the longest event taken, bytes, as for ``Decoder``.
    """

    __slots__ = ("_cutter", "_max", "_started", "last")

    def __init__(self, event_bytes_max: int) -> None:
        self._max = event_bytes_max
        self._cutter = _Cutter(event_bytes_max)
        self._started = False
        #: The last whole frame that has data, its line ends as LF; empty before there is one.
        #: Feeding it to a ``Decoder`` gives its event.
        self.last = b""

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended: a stream that ends now was cut."""
        return self._cutter.pending

    @property
    def rest(self) -> bytes:
        """What has been fed and not given out: the bytes of a frame that has not ended."""
        return self._cutter.rest

    def feed(self, chunk: bytes) -> tuple[bytes, int]:
        """``(frames, count)``: the whole frames that are there now, byte for byte, and how many of
        them are events: comments, and fields without data, are passed on and not counted.

        Where ``chunk`` is whole frames and nothing was held, ``frames`` is ``chunk`` itself. A
        frame that ends in CR is given out at once; the LF of that CRLF, if one comes, is given out
        with what follows it.

        Raises:
            EventTooLarge: an event passed the bound; as for ``Decoder.feed``.
        """
        size = len(chunk)
        if (
            chunk[:5] == b"data:"
            and chunk.find(b"\n\n") == size - 2
            and _CR not in chunk
            and self._cutter.clear
            and size <= self._max
        ):
            self.last = chunk
            return chunk, 1  # as with most that come one by one
        frames = text = self._cutter.feed(chunk)
        if text and not self._started:
            self._started = True
            text = text.removeprefix(_BOM)
        count = 0
        last = b""
        for block in _lf_only(text).split(b"\n\n"):
            if block.startswith(b"data:") or _DATA_FIELD.search(block):
                count += 1
                last = block
        if count:
            self.last = last.lstrip(b"\n") + b"\n\n"
        else:
            self._cutter.check()
        return frames, count


def encode(data: bytes, *, event: str | None = None, event_id: str | None = None) -> bytes:
    """One frame. Each line of ``data`` becomes a ``data:`` line, so whatever it holds stays data.

    A reader gets ``data`` back with its line ends as LF.

    Raises:
        ValueError: ``event`` or ``event_id`` holds CR, LF or NUL, or text that UTF-8 cannot write.
    """
    if _LF in data or _CR in data:
        data = _lf_only(data).replace(b"\n", b"\ndata: ")
    frame = b"data: " + data + b"\n\n"
    for name, value in (("event", event), ("id", event_id)):
        if value is not None:
            if _NEWLINE_OR_NUL.search(value):
                raise ValueError(f"{name} of a server-sent event may not hold CR, LF or NUL")
            frame = f"{name}: {value}\n".encode() + frame
    return frame


def encode_all(events: Sequence[bytes]) -> bytes:
    """A frame for each, as ``encode`` writes it without a name and an ID."""
    joined = b"\n\ndata: ".join(events)
    # The line ends that are there are those between events: none of them has one of its own.
    if _CR not in joined and joined.count(b"\n") == 2 * (len(events) - 1):
        return b"data: " + joined + b"\n\n"
    return b"".join(map(encode, events))


def is_event_stream(content_type: str) -> bool:
    """Whether a ``Content-Type`` says ``text/event-stream``, whatever its parameters."""
    return content_type.partition(";")[0].strip(" \t\r\n").lower() == "text/event-stream"
