"""Server-Sent Events: every rule, however the stream is split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gateway.sse import RETRY_MS_MAX, Decoder, Frame, Splitter, encode, encode_all, is_event_stream

ROOMY = 1 << 20


@dataclass(frozen=True)
class Case:
    """One rule: a stream, the events in it, and what else is known once it has been read."""

    rule: str
    stream: bytes
    frames: tuple[Frame, ...] = ()
    retry: int | None = None
    last_event_id: str = ""
    pending: bool = False


def message(data: str, last_event_id: str = "") -> Frame:
    return Frame(data.encode(), "message", last_event_id)


CASES = [
    # line ends
    Case(
        "a blank line ends an event",
        b"data: one\n\ndata: two\n\n",
        (message("one"), message("two")),
    ),
    Case("CR ends a line", b"data: one\rdata: two\r\r", (message("one\ntwo"),)),
    Case("CRLF ends a line once", b"data: one\r\ndata: two\r\n\r\n", (message("one\ntwo"),)),
    Case(
        "line ends mix",
        b"data: a\rdata: b\r\ndata: c\n\r\ndata: d\r\r\n",
        (message("a\nb\nc"), message("d")),
    ),
    Case("LF CR is two line ends", b"data: a\n\rdata: b\n\n", (message("a"), message("b"))),
    Case(
        "CR CR LF is a line and a blank line",
        b"data: a\r\r\ndata: b\n\n",
        (message("a"), message("b")),
    ),
    Case(
        "more blank lines mean nothing",
        b"\n\r\n\rdata: a\n\n\n\n\ndata: b\r\n\r\n\r\n",
        (message("a"), message("b")),
    ),
    Case(
        "an odd blank line between events means nothing",
        b"data: a\n\n\ndata: b\n\n",
        (message("a"), message("b")),
    ),
    Case(
        "no other character ends a line",
        "data: a\x0bb\x0cc\x85d\u2028e\n\n".encode(),
        (message("a\x0bb\x0cc\x85d\u2028e"),),
    ),
    # the byte order mark
    Case("a byte order mark is dropped", b"\xef\xbb\xbfdata: a\n\n", (message("a"),)),
    Case(
        "only one byte order mark is dropped",
        b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n",
        (message("b"),),
    ),
    Case(
        "a later byte order mark is part of the name",
        b"data: a\n\n\xef\xbb\xbfdata: b\n\n",
        (message("a"),),
    ),
    Case("a byte order mark alone is nothing", b"\xef\xbb\xbf"),
    Case(
        "a byte order mark before a blank line is dropped",
        b"\xef\xbb\xbf\r\ndata: a\n\n",
        (message("a"),),
    ),
    Case("half a byte order mark is a name", b"\xef\xbbdata: a\n\ndata: b\n\n", (message("b"),)),
    Case("the start of a byte order mark waits for its end", b"\xef\xbb", pending=True),
    Case(
        "a byte order mark may stand before an empty first field",
        b"\xef\xbb\xbfdata\n\n",
        (message(""),),
    ),
    # data
    Case(
        "one space after the colon is dropped",
        b"data:a\ndata: b\ndata:  c\ndata:\td\n\n",
        (message("a\nb\n c\n\td"),),
    ),
    Case(
        "data may be empty", b"data:\n\ndata: \n\ndata\n\n", (message(""), message(""), message(""))
    ),
    Case("empty lines of data are kept", b"data\ndata: x\ndata:\n\n", (message("\nx\n"),)),
    Case("data may hold colons", b"data: a: b:c\n\n", (message("a: b:c"),)),
    Case("data may hold NUL", b"data: a\0b\n\n", (message("a\0b"),)),
    Case("data is UTF-8", "data: naïve – 💡\n\n".encode(), (message("naïve – 💡"),)),
    # names
    Case("a line without a colon is a name", b"data: a\nnothing\ndata\n\n", (message("a\n"),)),
    Case(
        "an unknown field means nothing",
        b"color: red\ndata: a\ndat: b\ndatas: c\n\n",
        (message("a"),),
    ),
    Case(
        "a name is matched to the letter",
        b"DATA: a\n data: b\ndata : c\nd\0ata: d\ndata: e\n\n",
        (message("e"),),
    ),
    # comments
    Case(
        "a comment means nothing", b": hello\ndata: a\n:\n:data: b\ndata: c\n\n", (message("a\nc"),)
    ),
    Case("a comment alone is no event", b": ping\n\n: ping\r\n\r\ndata: a\n\n", (message("a"),)),
    Case("a comment after an event adds none", b"data: a\n\n:\n\n", (message("a"),)),
    Case(
        "an unfinished comment is no unfinished event",
        b"data: a\n\n: bye\n: for now",
        (message("a"),),
    ),
    # event
    Case(
        "an event has a type",
        b"event: tick\ndata: a\n\ndata: b\n\n",
        (Frame(b"a", "tick"), message("b")),
    ),
    Case("the last type counts", b"event: x\ndata: a\nevent: y\n\n", (Frame(b"a", "y"),)),
    Case("an empty type is the usual one", b"event: x\nevent:\ndata: a\n\n", (message("a"),)),
    Case(
        "a type without data is no event and is forgotten",
        b"event: x\n\ndata: a\n\n",
        (message("a"),),
    ),
    Case("a type keeps its colons", b"event: a:b\ndata: c\n\n", (Frame(b"c", "a:b"),)),
    # id
    Case(
        "an ID stays until the next",
        b"id: 7\ndata: a\n\ndata: b\n\nid:8\ndata: c\n\n",
        (message("a", "7"), message("b", "7"), message("c", "8")),
        last_event_id="8",
    ),
    Case(
        "an empty ID resets it",
        b"id: 7\ndata: a\n\nid\ndata: b\n\n",
        (message("a", "7"), message("b")),
    ),
    Case(
        "an ID with NUL means nothing",
        b"id: 7\ndata: a\n\nid: 8\0\ndata: b\n\n",
        (message("a", "7"), message("b", "7")),
        last_event_id="7",
    ),
    Case(
        "an ID without data counts",
        b"id: 9\n\ndata: a\n\n",
        (message("a", "9"),),
        last_event_id="9",
    ),
    Case(
        "an ID after the data counts",
        b"data: a\nid: 9\n\n",
        (message("a", "9"),),
        last_event_id="9",
    ),
    Case(
        "an ID is UTF-8",
        "id: № 1\ndata: a\n\n".encode(),
        (message("a", "№ 1"),),
        last_event_id="№ 1",
    ),
    Case(
        "the ID of an unfinished event does not count",
        b"id: 1\ndata: a\n\nid: 2\ndata: b\n",
        (message("a", "1"),),
        last_event_id="1",
        pending=True,
    ),
    # retry
    Case("a delay is in milliseconds", b"retry: 2500\n\n", retry=2500),
    Case("a delay may have leading zeros", b"retry: 00070\ndata: a\n\n", (message("a"),), retry=70),
    Case("a delay may be zero", b"retry:0\n\n", retry=0),
    Case("the last delay counts", b"retry: 1\n\nretry: 2\n\n", retry=2),
    Case(
        "a delay counts even in an unfinished event",
        b"retry: 1\n\nretry: 2\r\ndata: a",
        retry=2,
        pending=True,
    ),
    Case("an unfinished delay does not count", b"retry: 1\n\nretry: 2", retry=1, pending=True),
    Case("a delay with a sign means nothing", b"retry: 5\nretry: -5\nretry: +6\n\n", retry=5),
    Case(
        "a delay with anything but digits means nothing",
        "retry: 1s\nretry: 1.5\nretry: ٣\nretry:  4\nretry\n\n".encode(),
    ),
    Case("an endless delay is the longest", b"retry: " + b"9" * 5000 + b"\n\n", retry=RETRY_MS_MAX),
    # the end
    Case(
        "an event without its blank line is none",
        b"data: a\n\ndata: b\n",
        (message("a"),),
        pending=True,
    ),
    Case("a line without its end is none", b"data: a\n\ndata: b", (message("a"),), pending=True),
    Case("nothing is nothing", b""),
]


def cuts(stream: bytes) -> Iterator[list[bytes]]:
    """The stream whole, in pieces of 7, byte by byte, and in two and three at every point."""
    yield [stream]
    for size in (7, 1):
        yield [stream[at : at + size] for at in range(0, len(stream), size)]
    if len(stream) < 100:
        for first in range(len(stream) + 1):
            yield [stream[:first], stream[first:]]
            yield [stream[:first], b"", stream[first : first + 1], stream[first + 1 :]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_each_rule_holds_however_the_stream_is_split(case: Case) -> None:
    for pieces in cuts(case.stream):
        decoder = Decoder(ROOMY)
        frames = [frame for piece in pieces for frame in decoder.feed(piece)]
        assert frames == list(case.frames), pieces
        assert decoder.retry == case.retry, pieces
        assert decoder.last_event_id == case.last_event_id, pieces
        assert decoder.pending == case.pending, pieces


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_a_splitter_passes_every_byte_on_and_counts_the_same_events(case: Case) -> None:
    for pieces in cuts(case.stream):
        splitter = Splitter(ROOMY)
        runs = [splitter.feed(piece) for piece in pieces]
        passed = b"".join(run for run, _ in runs)
        assert passed + splitter.rest == case.stream, pieces
        assert sum(count for _, count in runs) == len(case.frames), pieces
        assert splitter.pending == case.pending, pieces
        assert Decoder(ROOMY).feed(passed) == list(case.frames), pieces


def test_an_event_is_given_out_with_the_chunk_that_ends_it() -> None:
    decoder = Decoder(ROOMY)
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"\n\r") == [message("a")]
    assert decoder.feed(b"\ndata: b\n") == []
    assert decoder.feed(b"\n") == [message("b")]


def test_a_stream_may_continue_from_a_known_id() -> None:
    decoder = Decoder(ROOMY, last_event_id="41")
    assert decoder.feed(b"data: a\n\nid: 42\ndata: b\n\n") == [
        message("a", "41"),
        message("b", "42"),
    ]


def test_text_that_is_not_utf_8_is_replaced_and_ends_no_line() -> None:
    [frame] = Decoder(ROOMY).feed(b"data: a\xf0\x9f\ndata: b\xff\n\n")
    assert frame.data == b"a\xf0\x9f\nb\xff"
    assert frame.text == "a\ufffd\nb\ufffd"


# Passing on


def test_a_chunk_of_whole_frames_is_passed_on_as_the_object_it_is() -> None:
    splitter = Splitter(ROOMY)
    splitter.feed(b": hello\n\n")
    for chunk, count in [
        (b"data: a\n\n", 1),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", 2),
        (b": ping\n\n", 0),
        (b"id: 1\n\nevent: x\nretry: 1\n\n", 0),
        (b"event: x\ndata\n\n", 1),
        (b"data: a\r\r", 1),
    ]:
        run = splitter.feed(chunk)
        assert run == (chunk, count)
        assert run[0] is chunk


def test_frames_are_passed_on_as_soon_as_they_are_whole_and_the_rest_is_held() -> None:
    splitter = Splitter(ROOMY)
    assert splitter.feed(b"data: a\n\ndata: b\n\nda") == (b"data: a\n\ndata: b\n\n", 2)
    assert splitter.rest == b"da"
    assert splitter.feed(b"ta: c\n") == (b"", 0)
    assert splitter.feed(b"\n") == (b"data: c\n\n", 1)
    assert splitter.rest == b""


def test_a_frame_that_ends_in_cr_does_not_wait_for_a_line_feed() -> None:
    splitter = Splitter(ROOMY)
    assert splitter.feed(b"data: a\r\n\r") == (b"data: a\r\n\r", 1)
    assert splitter.feed(b"\ndata: b\r\r") == (b"\ndata: b\r\r", 1)
    assert splitter.feed(b"\n") == (b"\n", 0)
    assert not splitter.pending


def test_the_last_event_of_a_stream_can_be_read_from_the_splitter() -> None:
    splitter = Splitter(ROOMY)
    assert splitter.last == b""
    splitter.feed(b"\xef\xbb\xbfdata: a\n\n")
    assert splitter.last == b"data: a\n\n"
    splitter.feed(b"data: b\n\n\nevent: x\r\ndata: c\r\n\r\n: bye\r\n\r\nid: 1\n\ndata: d")
    assert splitter.last == b"event: x\ndata: c\n\n"
    assert Decoder(ROOMY).feed(splitter.last) == [Frame(b"c", "x")]


# Writing


@pytest.mark.parametrize(
    ("data", "written"),
    [
        (b"hello", b"data: hello\n\n"),
        (b"", b"data: \n\n"),
        (b" x", b"data:  x\n\n"),
        (b"a\nb", b"data: a\ndata: b\n\n"),
        (b"a\r\nb\rc\n", b"data: a\ndata: b\ndata: c\ndata: \n\n"),
        (
            b"\n\nevent: x\ndata: y\n\n",
            b"data: \ndata: \ndata: event: x\ndata: data: y\ndata: \ndata: \n\n",
        ),
    ],
)
def test_every_line_of_the_data_is_written_as_data(data: bytes, written: bytes) -> None:
    assert encode(data) == written


@pytest.mark.parametrize(
    "events", [[], [b"a"], [b"a", b"", b"b"], [b"a\nb", b"c"], [b"a", b"b\rc"], [b"\n\ndata: x"]]
)
def test_several_events_are_written_as_each_of_them_is(events: list[bytes]) -> None:
    assert encode_all(events) == b"".join(map(encode, events))


def test_a_frame_may_have_a_type_and_an_id() -> None:
    assert encode(b"a", event="tick") == b"event: tick\ndata: a\n\n"
    assert (
        encode(b"a", event="tick", event_id="№ 4") == "id: № 4\nevent: tick\ndata: a\n\n".encode()
    )
    assert Decoder(ROOMY).feed(encode(b"a", event="", event_id="")) == [message("a")]


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\r\n", "a\0", "\ud800"])
def test_a_type_or_id_that_could_forge_a_field_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"event of a server-sent event|surrogates"):
        encode(b"a", event=value)
    with pytest.raises(ValueError, match=r"id of a server-sent event|surrogates"):
        encode(b"a", event_id=value)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("text/event-stream;", True),
        ("text/event-stream; charset=utf-8", True),
        (" text/event-stream ;charset=latin-1", True),
        ("text/event-streams", False),
        ("text/event", False),
        ("application/json", False),
        ("event-stream", False),
        ("", False),
    ],
)
def test_the_content_type_tells_whether_it_is_an_event_stream(
    content_type: str, expected: bool
) -> None:
    assert is_event_stream(content_type) is expected
