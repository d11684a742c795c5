"""Answers from bytes: the same whole, byte by byte, cut anywhere, and with more after their end."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.answer_parser import (
    FIELDS_MAX,
    HEAD_BYTES_MAX,
    INFORMATIONAL_MAX,
    AnswerParser,
    NotHttp,
)

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Length: 5\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the bytes: status 0 where no head came, ``fault`` where they are not HTTP."""

    status: int
    body: bytes = b""
    keep_alive: bool = True
    complete: bool = True
    fault: str = ""


def parse(*reads: bytes, parser: AnswerParser | None = None) -> Outcome:
    parser = parser or AnswerParser()
    body, fault = b"", ""
    for data in reads:
        try:
            parser.feed(memoryview(data))
        except NotHttp as error:
            fault = str(error)
        body += parser.take()
        if fault:
            break
    head = parser.head
    return Outcome(
        head.status if head else 0,
        body,
        head is not None and head.keep_alive,
        parser.complete,
        fault,
    )


def finely(data: bytes) -> list[bytes]:
    """Byte by byte; what is very long in somewhat larger pieces."""
    step = 1 if len(data) < 5000 else 97
    return [data[at : at + step] for at in range(0, len(data), step)]


COMPLETE: dict[str, tuple[bytes, Outcome]] = {
    "a length": (LENGTH + b"hello", Outcome(200, b"hello")),
    "no body": (OK + b"Content-Length: 0\r\n\r\n", Outcome(200)),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", Outcome(200)),
    "line breaks before it": (b"\r\n\r\n" + LENGTH + b"hello", Outcome(200, b"hello")),
    "chunks": (CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", Outcome(200, b"hello")),
    "chunks in capitals": (
        OK + b"transfer-encoding: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
        Outcome(200, b"0123456789"),
    ),
    "padded chunk size": (CHUNKED + b"5  \r\nhello\r\n0\r\n\r\n", Outcome(200, b"hello")),
    "extensions": (CHUNKED + b'5;a;b="c d"\r\nhello\r\n0;z\r\n\r\n', Outcome(200, b"hello")),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nX: 2\r\n\r\n", Outcome(200, b"hello")),
    "Connection: close": (
        OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
        Outcome(200, b"hello", keep_alive=False),
    ),
    "HTTP/1.0": (
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        Outcome(200, b"hello", keep_alive=False),
    ),
    "HTTP/1.0 kept": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        Outcome(200, b"hello"),
    ),
    "HTTP/1.0 in chunks": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n",
        Outcome(200, b"hello", keep_alive=False),
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", Outcome(204)),
    "204 with a length": (b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", Outcome(204)),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Outcome(304)),
    "an upgrade nobody asked for": (
        OK + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nhi",
        Outcome(200, b"hi"),
    ),
    "1xx": (b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH + b"hello", Outcome(200, b"hello")),
    "1xx, often": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * INFORMATIONAL_MAX + LENGTH + b"hello",
        Outcome(200, b"hello"),
    ),
    "1xx with a length": (
        b"HTTP/1.1 102 Processing\r\nContent-Length: 9\r\n\r\n" + LENGTH + b"hello",
        Outcome(200, b"hello"),
    ),
    "many fields": (
        OK + b"X: y\r\n" * (FIELDS_MAX - 1) + b"Content-Length: 2\r\n\r\nhi",
        Outcome(200, b"hi"),
    ),
    "the longest head": (
        OK + b"X: " + b"y" * (HEAD_BYTES_MAX - 43) + b"\r\nContent-Length: 2\r\n\r\nhi",
        Outcome(200, b"hi"),
    ),
    "an error": (
        b"HTTP/1.1 503 No\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\n{}",
        Outcome(503, b"{}"),
    ),
}
#: Until the connection ends.
OPEN = Outcome(200, b"hello", keep_alive=False, complete=False)
UNFRAMED: dict[str, tuple[bytes, Outcome]] = {
    "HTTP/1.1": (OK + b"\r\nhello", OPEN),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nhello", OPEN),
    "empty": (OK + b"\r\n", Outcome(200, keep_alive=False, complete=False)),
}
CUT: dict[str, tuple[bytes, Outcome]] = {
    "nothing": (b"", Outcome(0, keep_alive=False, complete=False)),
    "in the status line": (b"HTTP/1.", Outcome(0, keep_alive=False, complete=False)),
    "in the head": (OK + b"Content-Le", Outcome(0, keep_alive=False, complete=False)),
    "after a 1xx": (
        b"HTTP/1.1 100 Continue\r\n\r\n",
        Outcome(0, keep_alive=False, complete=False),
    ),
    "after the head": (LENGTH, Outcome(200, complete=False)),
    "in the body": (LENGTH + b"hel", Outcome(200, b"hel", complete=False)),
    "in a chunk": (CHUNKED + b"5\r\nhel", Outcome(200, b"hel", complete=False)),
    "before the last chunk": (
        CHUNKED + b"5\r\nhello\r\n",
        Outcome(200, b"hello", complete=False),
    ),
    "in the last chunk": (CHUNKED + b"5\r\nhello\r\n0\r\n", Outcome(200, b"hello", complete=False)),
    "in a body that asks to close": (
        OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhel",
        Outcome(200, b"hel", keep_alive=False, complete=False),
    ),
}
#: Bytes, the status and body that came before the fault, and what the error says.
FAULTY: dict[str, tuple[bytes, int, bytes, str]] = {
    "no HTTP": (b"hello, who is there?\r\n\r\n", 0, b"", "Expected HTTP/"),
    "a request": (b"GET / HTTP/1.1\r\n\r\n", 0, b"", "Expected HTTP/"),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x28", 0, b"", "Expected HTTP/"),
    "HTTP/0.9": (b"HTTP/0.9 200 OK\r\n\r\n", 0, b"", "version"),
    "HTTP/2.0": (b"HTTP/2.0 200 OK\r\n\r\n", 0, b"", "version"),
    "HTTP/1.2": (b"HTTP/1.2 200 OK\r\n\r\n", 0, b"", "version"),
    "status 99": (b"HTTP/1.1 99 Odd\r\n\r\n", 0, b"", "status"),
    "101": (b"HTTP/1.1 101 Switching\r\n\r\n", 0, b"", "101"),
    "101 with an upgrade": (
        b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        0, b"", "101",
    ),
    "1xx too often": (
        b"HTTP/1.1 100 Continue\r\n\r\n" * (INFORMATIONAL_MAX + 1), 0, b"", "100, once too often",
    ),
    "length and chunks": (
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 0, b"", "present with",
    ),
    "chunks and length": (
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 0, b"", "present with",
    ),
    "two lengths": (
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 0, b"", "Duplicate",
    ),
    "a list of lengths": (OK + b"Content-Length: 5, 5\r\n\r\n", 0, b"", "Content-Length"),
    "a signed length": (OK + b"Content-Length: +5\r\n\r\n", 0, b"", "Content-Length"),
    "an endless length": (OK + b"Content-Length: " + b"9" * 30, 0, b"", "overflow"),
    "an unknown coding": (
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello", 0, b"", "not chunked",
    ),
    "two codings": (
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        0, b"", "not chunked",
    ),
    "a folded line": (OK + b"X: a\r\n b\r\n\r\n", 0, b"", "whitespace"),
    "a space before a colon": (OK + b"Content-Length : 5\r\n\r\n", 0, b"", "header"),
    "a bare line feed": (OK + b"X: a\nY: b\r\n\r\n", 0, b"", "CR"),
    "a NUL": (OK + b"X: a\x00b\r\n\r\n", 0, b"", "header value"),
    "no colon": (OK + b"hello\r\n\r\n", 0, b"", "header"),
    "too many fields": (OK + b"X: y\r\n" * (FIELDS_MAX + 1) + b"\r\n", 0, b"", "128 header lines"),
    "too long a head": (OK + b"X: " + b"y" * HEAD_BYTES_MAX, 0, b"", "65536 bytes"),
    "too many trailers": (
        CHUNKED + b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * FIELDS_MAX + b"\r\n",
        200, b"hello", "128 header",
    ),
    "no chunk size": (CHUNKED + b"\r\nhello", 200, b"", "chunk size"),
    "a negative chunk": (CHUNKED + b"-5\r\nhello", 200, b"", "chunk size"),
    "an endless chunk": (CHUNKED + b"f" * 30, 200, b"", "overflow"),
    "a chunk longer than it says": (CHUNKED + b"3\r\nhello\r\n", 200, b"hel", "after chunk"),
}  # fmt: skip

EVERYTHING = {
    **{f"complete: {name}": case[0] for name, case in COMPLETE.items()},
    **{f"unframed: {name}": case[0] for name, case in UNFRAMED.items()},
    **{f"cut: {name}": case[0] for name, case in CUT.items()},
    **{f"faulty: {name}": case[0] for name, case in FAULTY.items()},
}


@pytest.mark.parametrize(("data", "outcome"), COMPLETE.values(), ids=COMPLETE)
def test_an_answer_is_the_same_whole_and_byte_by_byte(data: bytes, outcome: Outcome) -> None:
    assert parse(data) == outcome
    assert parse(*finely(data)) == outcome


@pytest.mark.parametrize(("data", "outcome"), COMPLETE.values(), ids=COMPLETE)
@pytest.mark.parametrize("more", [b"X", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n0\r\n\r\n"])
def test_what_follows_an_answer_does_not_change_it_but_is_noticed(
    data: bytes, outcome: Outcome, more: bytes
) -> None:
    for reads in ([data + more], [data, more], finely(data + more)):
        parser = AnswerParser()
        assert parse(*reads, parser=parser) == outcome
        assert parser.surplus


@pytest.mark.parametrize(("data", "outcome"), COMPLETE.values(), ids=COMPLETE)
def test_line_breaks_after_an_answer_are_nothing(data: bytes, outcome: Outcome) -> None:
    for reads in ([data + b"\r\n\r\n"], finely(data + b"\r\n\r\n")):
        parser = AnswerParser()
        assert parse(*reads, parser=parser) == outcome
        assert not parser.surplus


@pytest.mark.parametrize(("data", "outcome"), UNFRAMED.values(), ids=UNFRAMED)
def test_an_answer_without_a_length_ends_with_its_connection(data: bytes, outcome: Outcome) -> None:
    for reads in ([data], finely(data)):
        parser = AnswerParser()
        assert parse(*reads, parser=parser) == outcome
        assert parser.eof()
        assert parser.complete


@pytest.mark.parametrize(("data", "outcome"), CUT.values(), ids=CUT)
def test_an_answer_that_was_cut_is_not_complete(data: bytes, outcome: Outcome) -> None:
    for reads in ([data], finely(data)):
        parser = AnswerParser()
        assert parse(*reads, parser=parser) == outcome
        assert not parser.eof()
        assert parser.received == bool(data)


@pytest.mark.parametrize(("data", "status", "body", "fault"), FAULTY.values(), ids=FAULTY)
def test_what_is_not_http_is_refused_and_what_came_before_counts(
    data: bytes, status: int, body: bytes, fault: str
) -> None:
    for reads in ([data], finely(data), [data + b"more"]):
        found = parse(*reads)
        assert (found.status, found.body, found.complete) == (status, body, False)
        assert fault in found.fault


@given(st.sampled_from(sorted(EVERYTHING)), st.lists(st.integers(0, 200), max_size=8))
def test_where_bytes_are_cut_makes_no_difference(name: str, cuts: list[int]) -> None:
    data = EVERYTHING[name]
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    assert parse(*(data[start:end] for start, end in pairwise(places))) == parse(data)


def test_one_parser_reads_the_answers_of_a_connection_one_after_the_other() -> None:
    parser = AnswerParser()
    for data, outcome in COMPLETE.values():
        parser.begin()
        assert parse(data, parser=parser) == outcome
        if not outcome.keep_alive:
            parser = AnswerParser()


@pytest.mark.parametrize("start", [CHUNKED + b"5;", CHUNKED + b"0\r\nX: "])
def test_framing_without_a_body_is_bounded(start: bytes) -> None:
    parser = AnswerParser()
    parser.feed(start)
    for _ in range(8):
        parser.feed(b"x" * 8192)
    with pytest.raises(NotHttp, match="65536 bytes came without one of the body"):
        parser.feed(b"x" * 8192)


def test_framing_between_pieces_of_the_body_may_go_on() -> None:
    parser = AnswerParser()
    parser.feed(CHUNKED)
    for _ in range(20):
        parser.feed(b"1;" + b"x" * 8192)
        parser.feed(b"\r\n")
        parser.feed(b"a\r\n")
    assert parser.take() == b"a" * 20


def test_fields_are_found_by_name_and_those_of_one_name_are_joined() -> None:
    parser = AnswerParser()
    parser.feed(
        OK + b"content-TYPE:  text/html \r\nVary: a\r\nvary: b\r\nX: caf\xc3\xa9 \xff\r\nY:\r\n\r\n"
    )
    assert parser.head is not None
    assert parser.head.get("content-type") == "text/html"
    assert parser.head.get("vary") == "a, b"
    assert parser.head.get("x") == "café \N{REPLACEMENT CHARACTER}"
    assert parser.head.get("y", "unset") == ""
    assert parser.head.get("z") == ""
    assert parser.head.get("z", "unset") == "unset"


def test_a_closed_parser_holds_on_to_nothing() -> None:
    parser = AnswerParser()
    parser.close()
    with pytest.raises(AttributeError):
        parser.feed(b"HTTP")
