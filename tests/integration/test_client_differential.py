"""The gateway's HTTP client and aiohttp's, fed the same bytes: they agree, or a table says why not.

Each answer is read by the gateway's client in all three of its ways, which are to come to the same.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable, Sequence

import aiohttp
import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.upstreams.answer_parser import AnswerParser, NotHttp
from tests.support.answers import (
    FAILED,
    WAYS,
    Outcome,
    Writer,
    aiohttp_outcome,
    own_outcome,
    writing,
)

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Length: 5\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
ZIPPED = gzip.compress(b"hello" * 100, mtime=0)


def status(line: bytes, *fields: bytes, body: bytes = b"{}") -> bytes:
    """An answer with that status line."""
    lines = [line, *fields, b"Content-Length: %d" % len(body)]
    return b"".join(each + b"\r\n" for each in lines) + b"\r\n" + body


def fields(*lines: bytes) -> bytes:
    """An answer with those header lines."""
    return b"".join((OK, *(line + b"\r\n" for line in lines), b"Content-Length: 5\r\n\r\nhello"))


def encoded(coding: bytes, body: bytes) -> bytes:
    """An answer compressed, or said to be."""
    return OK + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding, len(body)) + body


#: Of each of these, both make the same.
ALIKE: dict[str, bytes] = {
    # where an answer ends
    "a length": LENGTH + b"hello",
    "no body": OK + b"Content-Length: 0\r\n\r\n",
    "a length among blanks": OK + b"Content-Length:  \t5\t \r\n\r\nhello",
    "the same length twice": OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a list of lengths": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "a length with a sign": OK + b"Content-Length: +5\r\n\r\nhello",
    "a length below zero": OK + b"Content-Length: -5\r\n\r\nhello",
    "a hexadecimal length": OK + b"Content-Length: 0x5\r\n\r\nhello",
    "an empty length": OK + b"Content-Length:\r\n\r\nhello",
    "a length beyond all bounds": OK + b"Content-Length: 99999999999999999999999\r\n\r\nhello",
    "chunks": CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
    "chunks in capitals": OK + b"TRANSFER-ENCODING: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
    "chunks with zeros before their size": CHUNKED + b"0005\r\nhello\r\n000\r\n\r\n",
    "chunks with blanks after their size": CHUNKED + b"5  \r\nhello\r\n0\r\n\r\n",
    "chunks with blanks before their size": CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n",
    "chunks with extensions": CHUNKED + b'5;a;b="c d"\r\nhello\r\n0;z\r\n\r\n',
    "chunks and trailers": CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nX: 2\r\n\r\n",
    "a chunk's size that is none": CHUNKED + b"z\r\nhello\r\n0\r\n\r\n",
    "a chunk's size below zero": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "a chunk's size with 0x": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk's size that is empty": CHUNKED + b"\r\nhello\r\n0\r\n\r\n",
    "a chunk's size beyond all bounds": CHUNKED + b"fffffffffffffffff\r\nhello",
    "a chunk longer than its size": CHUNKED + b"5\r\nhelloX\r\n0\r\n\r\n",
    "line feeds between chunks": CHUNKED + b"5\nhello\n0\n\n",
    "a length and chunks": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO,
    "chunks and a length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + HELLO,
    "the connection's end": OK + b"\r\nhello",
    "the connection's end, announced": OK + b"Connection: close\r\n\r\nhello",
    "a length and a connection that ends": OK
    + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
    "another answer after it": LENGTH + b"hello" + LENGTH + b"again",
    "line breaks after it": LENGTH + b"hello\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "204 with a length": b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    # its version, and what comes before it
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "HTTP/1.0 with a length": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.0 that is kept": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"
    b"Content-Length: 5\r\n\r\nhello",
    "HTTP/1.0 that is said to be kept": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhello",
    "HTTP/1.0 in chunks": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO,
    "HTTP/1.2": status(b"HTTP/1.2 200 OK"),
    "HTTP/2": status(b"HTTP/2 200 OK"),
    "HTTP/3.0": status(b"HTTP/3.0 200 OK"),
    "HTTP in small letters": status(b"http/1.1 200 OK"),
    "line breaks before it": b"\r\n\r\n" + LENGTH + b"hello",
    "100": b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH + b"hello",
    "100 of HTTP/1.0": b"HTTP/1.0 100 Continue\r\n\r\n" + LENGTH + b"hello",
    "103, eight times": EARLY * 8 + LENGTH + b"hello",
    "102 with a length": b"HTTP/1.1 102 Wait\r\nContent-Length: 9\r\n\r\n" + LENGTH + b"hello",
    "100 and nothing more": b"HTTP/1.1 100 Continue\r\n\r\n",
    "an upgrade nobody asked for": fields(b"Upgrade: h2c", b"Connection: upgrade"),
    # its status
    "a status without a reason": status(b"HTTP/1.1 200"),
    "a reason that is not ASCII": status(b"HTTP/1.1 200 \xe9"),
    "302": status(b"HTTP/1.1 302 Found", b"Location: /elsewhere"),
    "401": status(b"HTTP/1.1 401 Unauthorized"),
    "404": status(b"HTTP/1.1 404 Not Found"),
    "500": status(b"HTTP/1.1 500 Oops"),
    "503": status(b"HTTP/1.1 503 Busy"),
    "504": status(b"HTTP/1.1 504 Timeout"),
    "999": status(b"HTTP/1.1 999 Beyond"),
    "a status of two digits": status(b"HTTP/1.1 20 OK"),
    "a status of four digits": status(b"HTTP/1.1 2000 OK"),
    "a status with a sign": status(b"HTTP/1.1 -200 OK"),
    "no blank before the status": status(b"HTTP/1.1200 OK"),
    "two blanks before the status": status(b"HTTP/1.1  200 OK"),
    "a reason with a control character": status(b"HTTP/1.1 200 a\x01"),
    # its header lines
    "every character of a name": fields(b"X-Odd!#$%&'*+-.^_`|~09aZ: 1"),
    "a name of two words": fields(b"X Y: 1"),
    "a blank before the colon": fields(b"X : 1"),
    "no name": fields(b": 1"),
    "no colon": fields(b"nonsense"),
    "no value": fields(b"X:"),
    "a value with a tab": fields(b"X: a\tb"),
    "a value with a NUL": fields(b"X: a\x00b"),
    "a value with a carriage return": fields(b"X: a\rb"),
    "a value in UTF-8": fields("X: café".encode()),
    "a value in Latin-1": fields(b"X: caf\xe9"),
    "a name repeated": fields(b"X: a", b"x: b", b"X: c"),
    "cookies": fields(b"Set-Cookie: a=1", b"Set-Cookie: b=2"),
    "as many lines as may be": fields(*[b"X: y"] * 127),
    "more lines than may be": fields(*[b"X: y"] * 128),
    "a long value": fields(b"X: " + b"y" * 8000),
    "a head beyond all bounds": fields(b"X: " + b"y" * 70_000),
    "carriage returns alone": b"HTTP/1.1 200 OK\rContent-Length: 5\r\rhello",
    # compressed
    "gzip": encoded(b"gzip", ZIPPED),
    "gzip in capitals": encoded(b"GZIP", ZIPPED),
    "gzip byte by byte": OK
    + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"1\r\n%c\r\n" % byte for byte in ZIPPED)
    + b"0\r\n\r\n",
    "deflate": encoded(b"deflate", zlib.compress(b"hello")),
    "identity": encoded(b"identity", b"hello"),
    "gzip that is none": encoded(b"gzip", b"hello"),
    # no HTTP at all
    "nothing": b"",
    "a greeting": b"hello, who is there?\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "SSH": b"SSH-2.0-Server\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x50",
    "ICY": b"ICY 200 OK\r\n\r\nhello",
    "zeros": bytes(64),
}

HELLO_ALONE = Outcome(status=200, body=b"hello")
#: What the gateway's client makes of an answer that aiohttp takes otherwise, and why.
UNLIKE: dict[str, tuple[bytes, Outcome, str]] = {
    "more than the answer": (
        LENGTH + b"hello there",
        HELLO_ALONE,
        "the answer is whole; what follows it costs the connection",
    ),
    "an error that is cut": (
        b"HTTP/1.1 503 Busy\r\nContent-Length: 20\r\n\r\n{}",
        Outcome(status=503),
        "its status is what matters",
    ),
    "a line of 9,000 bytes": (
        fields(b"X: " + b"y" * 9000),
        HELLO_ALONE,
        "the head as a whole is bounded, at 64 KiB",
    ),
    "identity as a transfer coding": (
        OK + b"Transfer-Encoding: identity\r\n\r\nhello",
        FAILED,
        "HTTP knows no such coding any more: who reads it otherwise sees another end",
    ),
    "a transfer coding beside chunks": (
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + HELLO,
        FAILED,
        "aiohttp hands on the bytes as if they were not coded",
    ),
    "a transfer coding after chunks": (
        OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + HELLO,
        FAILED,
        "aiohttp hands on the chunks' sizes as text",
    ),
    "chunks, said twice": (
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO,
        FAILED,
        "it may be chunked twice: nobody can tell",
    ),
    "line feeds alone": (
        LENGTH.replace(b"\r", b"") + b"hello",
        FAILED,
        "strict grammar: what tolerates less cannot be led to another end",
    ),
    "a line feed in the head": (
        OK + b"Content-Length: 5\n\r\nhello",
        FAILED,
        "strict grammar",
    ),
    "a folded line": (fields(b"X: a", b" b"), FAILED, "strict grammar; folding is obsolete"),
    "a folded length": (
        OK + b"Content-Length:\r\n 5\r\n\r\nhello",
        FAILED,
        "strict grammar; folding is obsolete",
    ),
    "a control character": (fields(b"X: a\x01b"), FAILED, "strict grammar"),
    "a delete character": (fields(b"X: a\x7fb"), FAILED, "strict grammar"),
    "103, nine times": (EARLY * 9 + LENGTH + b"hello", FAILED, "everything has a bound"),
    "101": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello",
        FAILED,
        "nothing was asked for that it could switch to",
    ),
    "099": (status(b"HTTP/1.1 099 What"), FAILED, "statuses begin with 100"),
    "HTTP/2.0": (status(b"HTTP/2.0 200 OK"), FAILED, "this is not how HTTP/2 is written"),
    "HTTP/0.9": (status(b"HTTP/0.9 200 OK"), FAILED, "HTTP/0.9 has no status line"),
    "gzip that is cut": (
        encoded(b"gzip", ZIPPED[:-4]),
        FAILED,
        "its checksum is missing, so nothing says that it is whole",
    ),
    "two gzip streams": (
        encoded(b"gzip", ZIPPED + ZIPPED),
        FAILED,
        "aiohttp drops the second without a word",
    ),
    "nothing, said to be gzip": (encoded(b"gzip", b""), FAILED, "no bytes are no gzip stream"),
    "deflate without zlib's frame": (
        encoded(b"deflate", zlib.compress(b"hello")[2:-4]),
        FAILED,
        "without the frame there is no checksum, and RFC 9110 asks for it",
    ),
    "x-gzip": (
        encoded(b"x-gzip", ZIPPED),
        Outcome(status=200, body=b"hello" * 100),
        "RFC 9110 has it mean gzip; aiohttp hands on the compressed bytes",
    ),
    "gzip, twice": (
        encoded(b"gzip, gzip", gzip.compress(ZIPPED)),
        FAILED,
        "one coding is undone; aiohttp hands on the compressed bytes",
    ),
    "brotli": (encoded(b"br", b"hello"), FAILED, "it was not asked for"),
    "an unknown coding": (
        encoded(b"whatever", b"hello"),
        FAILED,
        "aiohttp hands on the bytes as if they were not coded",
    ),
}


async def both(
    writer: Writer, session: aiohttp.ClientSession, *pieces: bytes
) -> tuple[Outcome, Outcome]:
    """What the gateway's client makes of these bytes, and what aiohttp does."""
    path = f"/{len(writer.answers)}"
    writer.answers[path] = pieces
    theirs = await aiohttp_outcome(session, writer.url, path)
    ours = [await own_outcome(writer.url, path, way, list(theirs.fields)) for way in WAYS]
    assert ours == ours[:1] * len(WAYS), pieces
    return ours[0], theirs


@pytest.mark.parametrize("case", ALIKE)
async def test_both_make_the_same_of_an_answer(case: str) -> None:
    async with writing() as writer, aiohttp.ClientSession() as session:
        ours, theirs = await both(writer, session, ALIKE[case])
        assert ours == theirs


@pytest.mark.parametrize("case", UNLIKE)
async def test_where_they_differ_it_is_on_purpose(case: str) -> None:
    data, expected, why = UNLIKE[case]
    async with writing() as writer, aiohttp.ClientSession() as session:
        ours, theirs = await both(writer, session, data)
    assert (ours.failed, ours.status, ours.body) == (
        expected.failed,
        expected.status,
        expected.body,
    )
    assert (ours.failed, ours.status, ours.body) != (theirs.failed, theirs.status, theirs.body), why


@pytest.mark.parametrize(
    "case",
    [
        "a length",
        "chunks with extensions",
        "chunks and trailers",
        "the connection's end",
        "HTTP/1.0 with a length",
        "100",
    ],
)
async def test_both_make_the_same_of_an_answer_that_is_cut_anywhere(case: str) -> None:
    data = ALIKE[case]
    async with writing() as writer, aiohttp.ClientSession() as session:

        async def cut(at: int) -> None:
            ours, theirs = await both(writer, session, data[:at])
            assert ours == theirs, data[:at]

        async with asyncio.TaskGroup() as cuts:
            for at in range(len(data)):
                cuts.create_task(cut(at))


NAMES = st.sampled_from(
    ["X-A", "x-a", "X-B", "Via", "Server", "eTAG", "Cache-Control", "x_y", "Te"]
)
VALUES = st.text("ab ,;=\"'\\/()[]\tüλ", max_size=12)
Loop = Callable[[], asyncio.AbstractEventLoop]
#: Each brings bytes to a protocol in its own way.
LOOPS = st.sampled_from([asyncio.new_event_loop, uvloop.new_event_loop])
FRAMINGS = st.sampled_from(["length", "chunked", "close"])


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """A whole answer, as a server might write it."""
    body, framing = draw(st.binary(max_size=120)), draw(FRAMINGS)
    lines = [f"{draw(NAMES)}:{draw(st.sampled_from(['', ' ', '  ']))}{value}" for value in draw(
        st.lists(VALUES, max_size=4)
    )]  # fmt: skip
    if framing == "length":
        lines.append(f"{draw(st.sampled_from(['Content-Length', 'content-length']))}: {len(body)}")
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        sizes, chunks = draw(st.lists(st.integers(1, 40), max_size=6)), b""
        for size in sizes:
            chunk, body = body[:size], body[size:]
            ending = draw(st.sampled_from([b"", b";x", b" ;y=z"]))
            chunks += b"%x%b\r\n%b\r\n" % (len(chunk), ending, chunk) if chunk else b""
        body = chunks + b"0\r\n%b\r\n" % draw(st.sampled_from([b"", b"X-Sum: 1\r\n"]))
    order = draw(st.permutations(lines))
    number = draw(st.sampled_from([200, 200, 200, 404, 500]))
    version = draw(st.sampled_from(["1.1", "1.1", "1.0"]))
    head = "".join(f"{line}\r\n" for line in [f"HTTP/{version} {number} Said", *order])
    return EARLY * draw(st.integers(0, 2)) + head.encode() + b"\r\n" + body


def split(data: bytes, at: Sequence[int]) -> list[bytes]:
    """``data``, cut at these places."""
    ends = sorted({place for place in at if place < len(data)})
    return [
        data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)
    ]  # fmt: skip


def compare(loop: Loop, *pieces: bytes) -> tuple[Outcome, Outcome]:
    async def go() -> tuple[Outcome, Outcome]:
        async with writing() as writer, aiohttp.ClientSession() as session:
            return await both(writer, session, *pieces)

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(go())


@settings(max_examples=100)
@given(
    loop=LOOPS,
    data=answers(),
    at=st.lists(st.integers(0, 400), max_size=8),
    left=st.integers(0, 800),
)
@example(asyncio.new_event_loop, fields(b"X: ", b"X: ; ", b"X: "), [], 800)
def test_both_make_the_same_of_any_answer_however_it_is_split_and_cut(
    loop: Loop, data: bytes, at: list[int], left: int
) -> None:
    ours, theirs = compare(loop, *split(data[:left], at))
    if ours.status not in (0, 200):  # of a refusal, the gateway needs no more than the status
        assert theirs in (ours, FAILED)
    else:
        assert ours == theirs


def leaves_something(data: bytes) -> bool:
    """Whether bytes follow the answer that ``data`` begins with."""
    parser = AnswerParser()
    try:
        parser.feed(data)
    except NotHttp:
        return False
    return parser.surplus


@settings(max_examples=150)
@given(
    loop=LOOPS,
    data=answers(),
    at=st.integers(0, 400),
    gone=st.integers(0, 2),
    noise=st.sampled_from(
        [b"", b"\r", b"\n", b" ", b":", b"0", b"9", b"\x00", b"\x80", b";", b","]
    ),
)
@example(loop=asyncio.new_event_loop, data=LENGTH + b"hello", at=33, gone=1, noise=b"3")
def test_an_answer_with_a_fault_in_it_is_never_read_as_another(
    loop: Loop, data: bytes, at: int, gone: int, noise: bytes
) -> None:
    at = min(at, len(data))
    faulty = data[:at] + noise + data[at + gone :]
    ours, theirs = compare(loop, faulty)
    if ours.failed or ours.status != 200:
        return  # it may tolerate less
    assert ours == theirs or (theirs.failed and leaves_something(faulty))
