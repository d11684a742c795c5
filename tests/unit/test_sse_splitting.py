"""Server-Sent Events: the bound on one event, and any stream split in any way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import EventTooLarge, Outcome
from gateway.sse import Decoder, Frame, Splitter, encode

ROOMY = 1 << 20


def split(stream: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(point, len(stream)) for point in points), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def ways_to_split(stream: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and in two at every point."""
    yield [stream]
    yield split(stream, list(range(len(stream))))
    for point in range(len(stream)):
        yield split(stream, [point])


def message(data: str) -> Frame:
    return Frame(data.encode())


# The bound


def read(pieces: list[bytes], event_bytes_max: int) -> tuple[list[Frame], bool]:
    """The events up to the end or to the first that is too long, and whether one was."""
    decoder = Decoder(event_bytes_max)
    frames: list[Frame] = []
    try:
        for piece in [*pieces, b""]:
            frames += decoder.feed(piece)
    except EventTooLarge:
        return frames, True
    return frames, False


OVER = [
    ("a line that never ends", b"data: " + b"x" * 200),
    ("a comment that never ends", b":" + b"x" * 200),
    ("comments without a blank line", b": ping\n" * 40),
    ("fields without a blank line", b"id: 1\r\n" * 40),
    ("data without a blank line", b"data: a\r" * 40),
    ("a whole event", b"data: " + b"x" * 200 + b"\n\n"),
    ("a whole event after blank lines", b"\n\r\n\r\rdata: " + b"x" * 200 + b"\n\n"),
    ("a whole event after a byte order mark", b"\xef\xbb\xbfdata: " + b"x" * 200 + b"\n\n"),
]


@pytest.mark.parametrize("stream", [stream for _, stream in OVER], ids=[name for name, _ in OVER])
def test_an_event_over_the_bound_is_an_error_that_names_it(stream: bytes) -> None:
    for reader in (Decoder(100), Splitter(100)):
        with pytest.raises(EventTooLarge, match=r"event_bytes_max \(100 bytes\)") as caught:
            reader.feed(stream)
        assert caught.value.outcome is Outcome.UPSTREAM_ERROR
        assert reader.pending
        with pytest.raises(EventTooLarge):
            reader.feed(b"\n\ndata: late\n\n")


@pytest.mark.parametrize("stream", [stream for _, stream in OVER], ids=[name for name, _ in OVER])
def test_the_error_comes_with_the_first_byte_over_the_bound(stream: bytes) -> None:
    decoder, splitter = Decoder(100), Splitter(100)
    start = len(stream) - len(stream.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n"))
    for at in range(start + 100):
        assert decoder.feed(stream[at : at + 1]) == []
        splitter.feed(stream[at : at + 1])
    over = stream[start + 100 : start + 101]
    for reader in (decoder, splitter):
        with pytest.raises(EventTooLarge):
            reader.feed(over)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\r\n\r\n"], ids=["LF", "CR", "CRLF"])
def test_an_event_of_just_the_bound_passes(end: bytes) -> None:
    line_end = len(end) // 2
    for lead in (b"", b"\n", b"\r\n", b"\n\n\n", b"\xef\xbb\xbf"):
        fits = lead + b"data: " + b"x" * (94 - line_end) + end
        over = lead + b"data: " + b"x" * (95 - line_end) + end
        for pieces in ways_to_split(fits):
            frames, too_large = read(pieces, 100)
            assert (len(frames), too_large) == (1, False), pieces
        for pieces in ways_to_split(over):
            assert read(pieces, 100) == ([], True), pieces


def test_only_single_events_are_bounded() -> None:
    chunk = b"data: abc\n\n: ping\r\n\r\n" * 50
    assert len(Decoder(12).feed(chunk)) == 50
    assert Splitter(12).feed(chunk) == (chunk, 50)


def test_events_before_one_that_is_too_long_are_not_lost() -> None:
    stream = b"data: a\n\ndata: b\n\ndata: " + b"x" * 200 + b"\n\ndata: c\n\n"
    decoder = Decoder(100)
    assert decoder.feed(stream) == [message("a"), message("b")]
    assert decoder.pending
    with pytest.raises(EventTooLarge):
        decoder.feed(b"")
    splitter = Splitter(100)
    assert splitter.feed(stream) == (b"data: a\n\ndata: b\n\n", 2)
    assert splitter.pending
    with pytest.raises(EventTooLarge):
        splitter.feed(b"")


def test_a_line_of_two_megabytes_passes_in_pieces_of_any_size() -> None:
    data = b'{"text":"' + b"long, " * 350_000 + b'"}'
    stream = b"data: " + data + b"\n\n"
    for size in (len(stream), 16384, 100):
        decoder = Decoder(4 << 20)
        frames = [
            frame
            for at in range(0, len(stream), size)
            for frame in decoder.feed(stream[at : at + size])
        ]
        assert [frame.data for frame in frames] == [data]


# Any stream at all

fragments = st.sampled_from(
    [
        b"data",
        b"data:",
        b"data: x",
        b"event: e",
        b"id: 1",
        b"id: \0",
        b"retry: 5",
        b":",
        b": c",
        b"\n",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\r",
        b"\r\n\r\n",
        b"\xef\xbb\xbf",
        b"\xef",
        b"\xbb",
        b"\xbf",
        b" ",
        b"\xff",
        b"x",
    ]
)
streams = st.lists(fragments | st.binary(max_size=4), max_size=30).map(b"".join)
split_points = st.lists(st.integers(0, 120), max_size=12)


@given(streams, split_points)
@example(b"\xef\xbb\xbf\n", [1, 2])
@example(b"data\r\n\r\ndata\r\r\n", [5, 7, 14])
@example(b"\n\rdata\n\n", [1])
@settings(max_examples=400)
def test_splitting_never_changes_meaning(stream: bytes, points: list[int]) -> None:
    whole, pieces, splitter, after = Decoder(ROOMY), Decoder(ROOMY), Splitter(ROOMY), Decoder(ROOMY)
    expected = whole.feed(stream)
    frames: list[Frame] = []
    passed: list[Frame] = []
    raw = b""
    total = 0
    for piece in split(stream, points):
        frames += pieces.feed(piece)
        run, count = splitter.feed(piece)
        events = after.feed(run)
        assert len(events) == count
        assert after.pending is False
        passed += events
        raw += run
        total += count
    assert frames == passed == expected
    assert raw + splitter.rest == stream
    assert total == len(expected)
    assert (pieces.retry, pieces.last_event_id) == (whole.retry, whole.last_event_id)
    assert pieces.pending is whole.pending is splitter.pending
    if expected:
        [last] = Decoder(ROOMY).feed(splitter.last)
        assert (last.data, last.event) == (expected[-1].data, expected[-1].event)


@given(streams, split_points, st.integers(1, 20))
@example(b"data\r\n\n", [5], 5)
@example(b"\ndata\n\n", [1], 5)
@settings(max_examples=400)
def test_the_bound_falls_on_the_same_event_however_the_stream_is_split(
    stream: bytes, points: list[int], bound: int
) -> None:
    expected = read([stream], bound)
    assert read(split(stream, points), bound) == expected
    assert read(split(stream, list(range(len(stream)))), bound) == expected


def reference(stream: bytes) -> list[Frame]:
    """The rules once more, read straight off the page: text, lines, fields, one at a time."""
    text = stream.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    frames = []
    data, event, last_event_id = "", "", ""
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
        field, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if line == "":
            if data:
                raw = data[:-1].encode("latin-1")
                kind = event.encode("latin-1").decode("utf-8", "replace") or "message"
                frames.append(Frame(raw, kind, last_event_id))
            data, event = "", ""
        elif field == "data":
            data += value + "\n"
        elif field == "event":
            event = value
        elif field == "id" and "\0" not in value:
            last_event_id = value.encode("latin-1").decode("utf-8", "replace")
    return frames


@given(streams)
@settings(max_examples=400)
def test_the_decoder_reads_what_the_rules_say_line_by_line(stream: bytes) -> None:
    assert Decoder(ROOMY).feed(stream) == reference(stream)


@given(
    st.binary() | st.text().map(str.encode) | streams,
    st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")),
    st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")),
)
@settings(max_examples=300)
def test_what_is_written_is_read_back(data: bytes, event: str | None, event_id: str | None) -> None:
    frame = encode(data, event=event, event_id=event_id)
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert Decoder(ROOMY).feed(frame) == [Frame(lines, event or "message", event_id or "")]
    assert Splitter(ROOMY).feed(frame) == (frame, 1)
