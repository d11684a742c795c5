"""The client's half of HTTP/2, against a server's half that others wrote, and against bad bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import cycle

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    PingAckReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstreams.http2 import (
    CANCEL,
    CONNECTION_WINDOW,
    REFUSED_STREAM,
    STREAM_WINDOW,
    Fields,
    Http2,
    Http2Error,
    Stream,
    field,
)

ASKED = {":method": "POST", ":scheme": "http", ":path": "/a", ":authority": "h"}
BLOCK = b"".join(field(name.encode(), value.encode()) for name, value in ASKED.items())
HEAD = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS = [("grpc-status", "0")]
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


class Heard(Stream):
    """A stream that writes down what it is told."""

    def __init__(self, http2: Http2, *, takes: bool = True) -> None:
        super().__init__()
        self.told: list[object] = []
        self.body = b""
        self._http2 = http2
        self._takes = takes

    def on_fields(self, fields: Fields) -> None:
        self.told.append(dict(fields))

    def on_data(self, data: bytes) -> None:
        self.body += data
        if self._takes:
            self._http2.taken(self, len(data))

    def on_end(self) -> None:
        self.told.append("end")

    def on_reset(self, code: int, *, unheard: bool) -> None:
        self.told.append((code, unheard))


class Pair:
    """Both halves, and what the server has seen. ``cuts``: the sizes of the pieces in which bytes
    arrive."""

    def __init__(self, cuts: list[int] | None = None, http2: Http2 | None = None) -> None:
        self.client = http2 or Http2()
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.server.initiate_connection()
        self.seen: list[Event] = []
        self.acknowledges = True
        self._cuts = cycle(cuts or [1 << 20])
        self.run()

    def run(self) -> None:
        """Until neither has anything to say."""
        while True:
            sent = self.client.take()
            for piece in self._cut(sent):
                events = self.server.receive_data(piece)
                self.seen += events
                for event in events:
                    if isinstance(event, DataReceived) and self.acknowledges:
                        count = event.flow_controlled_length
                        if count:
                            self.server.acknowledge_received_data(count, event.stream_id)
            answered = self.server.data_to_send()
            for piece in self._cut(answered):
                self.client.feed(piece)
            if not (sent or answered or self.client.more):
                return

    def _cut(self, data: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            size = next(self._cuts)
            yield data[at : at + size]
            at += size

    def ask(self, *body: bytes, block: bytes = BLOCK, takes: bool = True) -> Heard:
        stream = Heard(self.client, takes=takes)
        self.client.start(stream, block, body or (b"x",))
        self.run()
        return stream

    def received(self, stream: Stream) -> bytes:
        return b"".join(
            event.data or b""
            for event in self.seen
            if isinstance(event, DataReceived) and event.stream_id == stream.id
        )

    def answer(self, stream: Stream, *body: bytes) -> None:
        self.server.send_headers(stream.id, HEAD)
        self.run()
        for piece in body:
            self.server.send_data(stream.id, piece)
            self.run()
        self.server.send_headers(stream.id, TRAILERS, end_stream=True)
        self.run()

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.seen if isinstance(event, kind)]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        struct.pack(">L", len(payload))[1:]
        + bytes((kind, flags))
        + struct.pack(">L", stream)
        + payload
    )


def texts(asked: RequestReceived) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in asked.headers]


NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=200).map("x-".__add__)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=600)


@given(
    st.lists(st.tuples(NAMES, VALUES), max_size=4),
    st.lists(st.integers(1, 60_000).map(bytes), min_size=1, max_size=4),
    st.lists(st.integers(1, 16_000).map(lambda size: b"a" * size), max_size=4),
    st.lists(st.integers(1, 50_000), min_size=1, max_size=4),
)
@settings(max_examples=50)
def test_what_is_asked_arrives_and_so_does_the_answer_however_the_bytes_come(
    fields: list[tuple[str, str]], body: list[bytes], answer: list[bytes], cuts: list[int]
) -> None:
    pair = Pair(cuts)
    more = b"".join(field(name.encode(), value.encode()) for name, value in fields)
    stream = pair.ask(*body, block=BLOCK + more)
    (asked,) = pair.of(RequestReceived)
    assert isinstance(asked, RequestReceived)
    assert texts(asked) == [*ASKED.items(), *fields]
    assert pair.received(stream) == b"".join(body)
    assert len(pair.of(StreamEnded)) == 1
    pair.answer(stream, *answer)
    assert stream.told == [
        {b":status": b"200", b"content-type": b"application/grpc"},
        {b"grpc-status": b"0"},
        "end",
    ]
    assert stream.body == b"".join(answer)
    assert pair.client.streams == {}


def test_fields_longer_than_a_frame_go_on_in_the_next() -> None:
    pair = Pair()
    pair.ask(block=BLOCK + field(b"x-long", b"v" * 40_000))
    (asked,) = pair.of(RequestReceived)
    assert isinstance(asked, RequestReceived)
    assert dict(texts(asked))["x-long"] == "v" * 40_000


def test_fields_of_an_answer_that_go_on_in_the_next_frame_are_read() -> None:
    pair = Pair()
    stream = pair.ask()
    long = [(f"x-{number}", "v" * 4000) for number in range(8)]
    pair.server.send_headers(stream.id, HEAD + long)
    pair.run()
    (told,) = stream.told
    assert isinstance(told, dict)
    assert told[b"x-7"] == b"v" * 4000


def test_a_body_waits_for_room_and_goes_on_when_there_is() -> None:
    pair = Pair()
    pair.acknowledges = False
    stream = pair.ask(b"a" * 200_000)
    assert len(pair.received(stream)) == 65_535
    assert not pair.client.more
    pair.server.increment_flow_control_window(100_000)
    pair.run()
    assert len(pair.received(stream)) == 65_535  # the stream itself has no more
    pair.server.increment_flow_control_window(100_000, stream.id)
    pair.run()
    assert len(pair.received(stream)) == 165_535


def test_a_window_that_the_server_changes_is_that_of_streams_that_are_open_too() -> None:
    pair = Pair()
    pair.acknowledges = False
    pair.server.increment_flow_control_window(1_000_000)
    first = pair.ask(b"a" * 200_000)
    pair.server.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 10_000})
    pair.run()
    pair.server.increment_flow_control_window(60_000, first.id)
    pair.run()  # which does not even make up for what was taken away
    assert len(pair.received(first)) == 65_535 + 60_000 - 55_535
    assert len(pair.received(pair.ask(b"b" * 20_000))) == 10_000


def test_longer_frames_are_sent_where_the_server_takes_them() -> None:
    pair = Pair()
    pair.server.update_settings({SettingCodes.MAX_FRAME_SIZE: 1_000_000})
    pair.run()
    stream = pair.ask(b"a" * 60_000)
    sizes = [len(event.data or b"") for event in pair.seen if isinstance(event, DataReceived)]
    assert sizes == [60_000]
    assert pair.received(stream) == b"a" * 60_000


def test_large_bodies_take_turns_and_no_more_than_a_piece_is_sent_at_once() -> None:
    pair = Pair()
    pair.server.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 10_000_000})
    pair.server.increment_flow_control_window(10_000_000)
    pair.run()
    streams = [Heard(pair.client) for _ in range(3)]
    for stream in streams:
        pair.client.start(stream, BLOCK, [b"a" * 400_000, b"b" * 100_000])
    sizes = []
    while sent := pair.client.take():
        sizes.append(len(sent))
        pair.seen += pair.server.receive_data(sent)
    assert max(sizes) < 300_000
    order = [event.stream_id for event in pair.seen if isinstance(event, DataReceived)]
    assert order.index(streams[2].id) < len(order) - 1 - order[::-1].index(streams[0].id)
    for stream in streams:
        assert pair.received(stream) == b"a" * 400_000 + b"b" * 100_000


def test_bodies_wait_while_the_socket_does_and_what_else_is_to_be_said_does_not() -> None:
    pair = Pair()
    pair.client.blocked = True
    stream = pair.ask(b"abc")
    assert pair.of(RequestReceived)
    assert not pair.client.more
    assert pair.received(stream) == b""
    pair.client.blocked = False
    assert pair.client.more
    pair.run()
    assert pair.received(stream) == b"abc"


def test_an_answer_before_the_body_was_sent_is_the_end_of_it() -> None:
    pair = Pair()
    pair.acknowledges = False
    stream = pair.ask(b"a" * 200_000)
    pair.answer(stream)
    assert stream.told[-1] == "end"
    (reset,) = pair.of(StreamReset)
    assert isinstance(reset, StreamReset)
    assert reset.error_code == CANCEL
    assert not pair.client.more


def test_what_is_cancelled_is_not_heard_of_again_and_leaves_room_for_others() -> None:
    pair = Pair()
    stream = pair.ask()
    pair.server.send_headers(stream.id, HEAD)
    pair.client.cancel(stream)
    pair.client.cancel(stream)  # it is no more
    pair.client.feed(pair.server.data_to_send() + frame(8, 0, stream.id, b"\0\0\0\1"))
    pair.client.feed(frame(0, 0, stream.id, bytes(16_000)) * 600)
    pair.run()
    assert stream.told == []
    assert stream.body == b""
    (reset,) = pair.of(StreamReset)
    assert isinstance(reset, StreamReset)
    assert reset.error_code == CANCEL
    assert any(
        isinstance(event, WindowUpdated) and event.stream_id == 0 and event.delta < 2**23 + 16_000
        for event in pair.seen[5:]
    )


def test_what_its_receiver_cancels_when_it_comes_has_no_end() -> None:
    pair = Pair()

    class Fussy(Heard):
        def on_data(self, data: bytes) -> None:
            pair.client.cancel(self)

    stream = Fussy(pair.client)
    pair.client.start(stream, BLOCK, [b"x"])
    pair.run()
    pair.server.send_headers(stream.id, HEAD)
    pair.server.send_data(stream.id, b"never wanted", end_stream=True)
    pair.run()
    assert "end" not in stream.told


def test_a_server_is_held_back_by_what_nobody_takes() -> None:
    pair = Pair()
    stream = pair.ask(takes=False)
    pair.server.send_headers(stream.id, HEAD)
    pair.run()
    while pair.server.local_flow_control_window(stream.id) >= 16_000:
        pair.server.send_data(stream.id, bytes(16_000))
        pair.run()
    assert STREAM_WINDOW - 16_000 < len(stream.body) <= STREAM_WINDOW
    pair.client.taken(stream, STREAM_WINDOW // 2)
    pair.run()
    assert pair.server.local_flow_control_window(stream.id) >= STREAM_WINDOW // 2
    other = pair.ask()
    pair.answer(other, b"meanwhile")
    assert other.body == b"meanwhile"


def test_padding_takes_room_and_is_no_part_of_the_body() -> None:
    pair = Pair()
    stream = pair.ask(takes=False)
    pair.server.send_headers(stream.id, HEAD)
    pair.server.send_data(stream.id, b"abc", pad_length=100)
    pair.server.send_data(stream.id, b"", pad_length=1)
    pair.run()
    assert stream.body == b"abc"
    assert (stream.held, stream.untold) == (106, 103)
    pair.client.feed(frame(1, 0x2D, stream.id, b"\x02" + bytes(5) + b"\x88" + bytes(2)))
    assert stream.told[-2:] == [{b":status": b"200"}, "end"]


def test_a_server_that_goes_away_says_what_it_has_not_heard() -> None:
    pair = Pair()
    first, second = pair.ask(), pair.ask(b"a" * 100_000)
    pair.client.feed(frame(7, 0, 0, struct.pack(">LL", first.id, 0)))
    assert pair.client.going
    assert second.told == [(REFUSED_STREAM, True)]
    pair.answer(first, b"still")
    assert first.body == b"still"
    assert first.told[-1] == "end"


@pytest.mark.parametrize(
    ("code", "unheard"),
    [(ErrorCodes.REFUSED_STREAM, True), (ErrorCodes.INTERNAL_ERROR, False)],
)
def test_a_stream_that_is_reset_ends_and_says_whether_it_was_heard(
    code: ErrorCodes, unheard: bool
) -> None:
    pair = Pair()
    stream = pair.ask()
    pair.server.reset_stream(stream.id, code)
    pair.run()
    assert stream.told == [(code, unheard)]
    pair.client.feed(frame(3, 0, stream.id, struct.pack(">L", 2)))  # once more: nothing
    assert len(stream.told) == 1


def test_pings_are_answered_both_ways() -> None:
    pair = Pair()
    pair.server.ping(b"12345678")
    pair.client.ping()
    assert pair.client.pinged
    pair.run()
    assert not pair.client.pinged
    assert [type(event) for event in pair.of(PingAckReceived)] == [PingAckReceived]


def test_how_many_streams_the_server_bears_is_known() -> None:
    pair = Pair()
    pair.server.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 7})
    pair.run()
    assert pair.client.settled
    assert pair.client.streams_max == 7


def test_when_the_numbers_run_out_no_more_streams_are_opened() -> None:
    http2 = Http2(first_id=2**31 - 3)
    http2.start(Heard(http2), BLOCK, [b"x"])
    assert not http2.going
    http2.start(Heard(http2), BLOCK, [b"x"])
    assert http2.going


def test_kinds_of_answers_are_remembered_but_not_for_ever() -> None:
    pair = Pair()
    for number in (each // 3 for each in range(300)):
        stream = pair.ask()
        fields = [(":status", "200"), ("x-n", str(number))]
        pair.server.send_headers(stream.id, fields, end_stream=True)
        pair.run()
        assert stream.told == [{b":status": b"200", b"x-n": str(number).encode()}, "end"]


def test_frames_that_mean_nothing_here_are_passed_over() -> None:
    pair = Pair()
    stream = pair.ask()
    pair.client.feed(frame(2, 0, stream.id, bytes(5)) + frame(0xFA, 0xFF, 99, b"what"))
    pair.client.feed(frame(8, 0, stream.id, bytes(4)) + frame(4, 0, 0, struct.pack(">HL", 99, 1)))
    pair.client.feed(frame(4, 1, 0, b""))
    pair.answer(stream, b"all the same")
    assert stream.body == b"all the same"


BAD: dict[str, Callable[[int], bytes]] = {
    "a window of nothing": lambda _: frame(8, 0, 0, bytes(4)),
    "a window beyond all": lambda _: frame(8, 0, 0, struct.pack(">L", 2**31 - 1)),
    "a window cut short": lambda _: frame(8, 0, 0, b"\0"),
    "settings cut short": lambda _: frame(4, 0, 0, bytes(5)),
    "a first window beyond all": lambda _: frame(4, 0, 0, struct.pack(">HL", 4, 2**31)),
    "frames too short": lambda _: frame(4, 0, 0, struct.pack(">HL", 5, 100)),
    "frames too long": lambda _: frame(4, 0, 0, struct.pack(">HL", 5, 2**24)),
    "a ping cut short": lambda _: frame(6, 0, 0, b"short"),
    "a push": lambda of: frame(5, 4, of, bytes(10)),
    "a frame over the bound": lambda of: frame(0, 0, of, bytes(16_385)),
    "data of the connection": lambda _: frame(0, 0, 0, b"x"),
    "data of the server's own": lambda _: frame(0, 0, 2, b"x"),
    "data of what was not asked": lambda of: frame(0, 0, of + 2, b"x"),
    "a reset cut short": lambda of: frame(3, 0, of, b"\0"),
    "padding alone": lambda of: frame(0, 8, of, b"\x01"),
    "nothing where padding is told": lambda of: frame(0, 8, of, b""),
    "a block that is none": lambda of: frame(1, 4, of, b"\x80"),
    "a block by a table": lambda of: frame(1, 4, of, b"\xbe"),
    "a table that is not allowed": lambda of: frame(1, 4, of, b"\x3f\xe1\x1f\x88"),
    "a block that is interrupted": lambda of: frame(1, 0, of, b"\x88") + frame(0, 0, of, b"x"),
    "another's end of a block": lambda of: frame(1, 0, of, b"\x88") + frame(9, 4, of + 2, b""),
    "the end of no block": lambda of: frame(9, 4, of, b"\x88"),
    "a block without an end": lambda of: frame(1, 0, of, b"") + frame(9, 0, of, bytes(16_000)) * 5,
    "more than there is room for": lambda of: frame(0, 0, of, bytes(16_000)) * 66,
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_server_that_breaks_the_protocol_is_not_listened_to(bad: Callable[[int], bytes]) -> None:
    pair = Pair()
    stream = pair.ask(takes=False)
    with pytest.raises(Http2Error):
        pair.client.feed(bad(stream.id))


def test_a_server_that_asks_and_does_not_read_is_not_answered_for_ever() -> None:
    client = Pair().client
    pings = frame(6, 0, 0, bytes(8)) * 5000
    client.feed(pings)
    assert len(client.take()) == len(pings)
    client.blocked = True
    with pytest.raises(Http2Error, match="than it reads"):
        client.feed(pings)


def test_of_a_setting_that_is_said_often_the_last_counts_at_once() -> None:
    pair = Pair()
    sizes = [*range(10_000), 20_000]
    said = b"".join(struct.pack(">HL", 4, size) for size in sizes[-2700:])
    pair.client.feed(frame(4, 0, 0, said))
    assert len(pair.received(pair.ask(b"b" * 30_000))) == 20_000


def test_what_was_not_sent_is_known() -> None:
    http2 = Http2()
    http2.feed(SETTINGS)
    first, second = Heard(http2), Heard(http2)
    http2.start(first, BLOCK, [b"x"])
    assert first.id >= http2.unsent_id
    http2.take()
    http2.start(second, BLOCK, [b"x"])
    assert first.id < http2.unsent_id <= second.id


PIECES = st.sampled_from(
    (b"\x88", b"\x20", b"\xbe", b"\x48\x03100", field(b"grpc-status", b"0"), bytes(5), bytes(8),
     b"\x05", struct.pack(">LL", 1, 0), struct.pack(">HL", 4, 0), struct.pack(">HL", 3, 0),
     struct.pack(">HL", 4, 2**31 - 1), struct.pack(">L", 2**31 - 1), bytes(1000)),
)  # fmt: skip
FRAMES = st.builds(
    frame,
    st.integers(0, 10),
    st.sampled_from((0, 1, 4, 5, 8, 0x2D, 0xFF)),
    st.sampled_from((0, 1, 2, 3, 5, 2**31 + 1)),
    st.one_of(st.binary(max_size=30), st.lists(PIECES, max_size=3).map(b"".join)),
)


@given(st.lists(st.one_of(FRAMES, st.binary(max_size=20), st.integers(0, 4)), max_size=40))
@settings(max_examples=150)
def test_whatever_comes_and_is_done_meanwhile_it_is_read_or_refused(
    steps: list[bytes | int],
) -> None:
    http2 = Http2()
    http2.feed(SETTINGS)
    streams = [Heard(http2, takes=False), Heard(http2)]
    for stream in streams:
        http2.start(stream, BLOCK, [b"a" * 90_000, b"b"])
    for step in steps:
        if isinstance(step, bytes):
            try:
                http2.feed(step)
            except Http2Error:
                break
        elif step < 2:
            http2.cancel(streams[step])
        elif step < 4:
            http2.blocked = step == 3
        else:
            http2.take()
    for stream in streams:
        assert stream.open == (stream.id in http2.streams)
        assert bool(stream.pending) <= stream.open
        assert 0 <= stream.held - stream.untold <= STREAM_WINDOW + 16_384


@pytest.mark.parametrize("first", [b"HTTP/1.1 400 Bad Request\r\n\r\n", frame(6, 0, 0, bytes(8))])
def test_a_server_has_to_begin_with_its_settings(first: bytes) -> None:
    http2 = Http2()
    with pytest.raises(Http2Error):
        http2.feed(first)


def test_the_server_may_send_much_before_it_hears_of_room() -> None:
    pair = Pair()
    stream = pair.ask()
    assert pair.server.outbound_flow_control_window == CONNECTION_WINDOW
    assert pair.server.local_flow_control_window(stream.id) == STREAM_WINDOW
