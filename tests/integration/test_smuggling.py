"""Requests that two servers could read in two ways: here each is refused, or read in the one way.

Each test's bytes end with a whole request, the hidden one. Where it stands behind what is refused,
or within a body, no upstream may ever see it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.raw import Raw, answer, raw
from tests.support.remote import Peer, Remote, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import OBSERVATION, cambrion_script
from tests.support.timing import patience, until

KEY = "s3cret"
CONFIG = """
upstreams: {{docs: {{kind: cambrion, url: "{url}/v1"}}}}
pipelines: {{doc: {{upstream: docs}}}}
"""
KEYS = f"""
keys: [{{{{name: team, sha256: {hashlib.sha256(KEY.encode()).hexdigest()}, pipelines: ["*"]}}}}]
"""

LINE = b"POST /v1/pipelines/doc/executeSync HTTP/1.1"
START = LINE + b"\r\nHost: x\r\n"
BODY = b'{"text":"a"}'
LENGTH = b"Content-Length: 12\r\n"
REST = LENGTH + b"\r\n" + BODY
CHUNKS = b"c\r\n" + BODY + b"\r\n0\r\n\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
#: What no upstream may see.
HIDDEN = START + b"X-Request-Id: hidden\r\n" + REST
#: What shows that a connection goes on to be read as it should be.
NEXT = START + b"X-Request-Id: next\r\n" + REST


def line(text: bytes) -> bytes:
    """A whole request with this first line."""
    return text + b"\r\nHost: x\r\n" + REST


def field(text: bytes) -> bytes:
    """A whole request with this line in its head, which says nothing of its body's length."""
    return START + text + b"\r\n\r\n"


#: Versions that say by themselves that nothing follows.
VERSIONS: dict[str, bytes] = {
    "HTTP/0.9": b"GET /v1/pipelines\r\n\r\n",
    "HTTP/0.9, said": line(LINE.replace(b"1.1", b"0.9")),
    "HTTP/2.0": line(LINE.replace(b"1.1", b"2.0")),
}

#: Each with the status that it gets; then the connection ends, whatever stands behind.
REFUSED: dict[str, tuple[bytes, int]] = {
    # one body, two lengths
    "a length, then chunks": (
        START + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
    ),
    "chunks, then a length": (
        START + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400,
    ),
    "the same length twice": (START + LENGTH + REST, 400),
    "two lengths": (START + b"Content-Length: 0\r\n" + REST, 400),
    **{
        f"Content-Length: {value!r}": (field(b"Content-Length: " + value) + BODY, 400)
        for value in (
            b"12, 12", b"12,", b"+12", b"-12", b"0xc", b"1 2", b"12a", b"12;a", b"1_2", b"1.0",
            b"", b"\x0b12", b"12\x0c", "１２".encode(), b"9" * 30, str(2**64 - 1).encode(),
        )
    },
    # transfer codings
    **{
        f"Transfer-Encoding: {value!r}": (
            field(b"Transfer-Encoding: " + value) + CHUNKS, 400,
        )
        for value in (
            b"chunked, identity", b"chunked, chunked", b"chunked, gzip", b"chunked,", b"identity",
            b"trailers", b"xchunked", b"chunkedx", b"chunked\x0b", b"chunked\x00", b"chunked;a=b",
            b'"chunked"', b"",
        )
    },
    **{
        f"Transfer-Encoding: {value!r}": (
            field(b"Transfer-Encoding: " + value) + CHUNKS, 501,
        )
        for value in (b"gzip, chunked", b"identity, chunked", b",chunked", b"x, chunked")
    },
    **{
        f"two codings, {first!r} first": (
            field(b"Transfer-Encoding: " + first + b"\r\nTransfer-Encoding: " + second) + CHUNKS,
            400,
        )
        for first, second in (
            (b"chunked", b"chunked"), (b"identity", b"chunked"), (b"chunked", b"identity"),
        )
    },
    "an empty coding of no body": (field(b"Transfer-Encoding:"), 400),
    "chunks in HTTP/1.0": (CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + CHUNKS, 400),
    "chunks in an HTTP/1.0 that is to be kept": (
        field(b"Connection: keep-alive\r\nTransfer-Encoding: chunked").replace(b"/1.1", b"/1.0")
        + CHUNKS,
        400,
    ),
    **{
        f"the name {name!r}": (START + name + b": chunked\r\n" + REST, 400)
        for name in (
            b"Transfer-Encoding ", b"Transfer-Encoding\t", b"Transfer Encoding",
            b" Transfer-Encoding", b"\x0bTransfer-Encoding", b"Transfer-Encoding\x00",
            b"X\nTransfer-Encoding", b"X\rTransfer-Encoding", b"X: a\r Transfer-Encoding",
        )
    },
    # lines
    "line feeds alone": ((START + REST).replace(b"\r\n", b"\n"), 400),
    "a line feed alone": (START + b"X: a\nY: b\r\n" + REST, 400),
    "a carriage return alone": (START + b"X: a\rY: b\r\n" + REST, 400),
    "a head that ends in a line feed alone": (START + LENGTH + b"\n" + BODY, 400),
    "a folded line": (START + b"X: a\r\n b\r\n" + REST, 400),
    "a folded coding": (field(b"Transfer-Encoding:\r\n chunked") + CHUNKS, 400),
    "a first header that is folded": (LINE + b"\r\n X: a\r\nHost: x\r\n" + REST, 400),
    "a space before the colon": (START + b"X : a\r\n" + REST, 400),
    "no colon": (START + b"X\r\n" + REST, 400),
    "no name": (START + b": a\r\n" + REST, 400),
    **{
        f"the name {name!r}": (START + name + b": a\r\n" + REST, 400)
        for name in (b"X\x00", b"X\x01", b"X\x7f", b"X\xff", b"X(", b"X@", b"X[", b'X"', b"X/")
    },
    **{
        f"the value {value!r}": (START + b"X: " + value + b"\r\n" + REST, 400)
        for value in (b"a\x00b", b"a\x01b", b"a\x0bb", b"a\x0cb", b"a\x1fb", b"a\x7fb")
    },
    "more headers than there may be": (START + b"X: y\r\n" * 200 + REST, 400),
    "a header longer than one may be": (START + b"X: " + b"y" * 9000 + b"\r\n" + REST, 400),
    # the first line
    **{
        f"the line {text!r}": (line(text), 400)
        for text in (
            LINE.replace(b"POST", b"PO ST"), b" " + LINE, LINE + b" ", LINE.replace(b" ", b"\t"),
            LINE.replace(b"/doc", b"/doc "), LINE.replace(b"/doc", b"/doc\x00"),
            LINE.replace(b"/doc", b"/doc\x01"), LINE.replace(b"/doc", b"/doc\x7f"),
            LINE.replace(b"/doc", b"/doc\xff"), LINE.replace(b" HTTP", b"#x HTTP"),
            LINE.replace(b"POST", b"post"), LINE.replace(b"POST", b"FOO"),
            LINE.replace(b"HTTP", b"http"), LINE.replace(b"HTTP/", b"HTTP "),
            LINE.replace(b"HTTP", b"HTTPS"), LINE.replace(b"1.1", b"1.2"),
            LINE.replace(b"1.1", b"1.10"), LINE.replace(b"1.1", b"1"),
            b"POST HTTP/1.1", b"POST v1/pipelines/doc/executeSync HTTP/1.1", b"POST * HTTP/1.1",
            b"POST x:80 HTTP/1.1", b"POST file:///v1/pipelines/doc/executeSync HTTP/1.1",
            b"POST \\v1\\pipelines\\doc\\executeSync HTTP/1.1", b"PRI * HTTP/2.0",
        )
    },
    "a path longer than one may be": (line(LINE.replace(b"/doc", b"/" + b"d" * 9000)), 400),
    "a method longer than any": (line(b"P" * 9000 + LINE), 400),
    "HTTP/2 known beforehand": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 400),
    "TLS": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", 400),
    **{f"{name} and more": (data, 400) for name, data in VERSIONS.items()},
    "CONNECT": (b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", 501),
    "CONNECT to a path": (line(LINE.replace(b"POST", b"CONNECT")), 501),
    # hosts
    "no host": (LINE + b"\r\n" + REST, 400),
    "the same host twice": (START + b"Host: x\r\n" + REST, 400),
    "two hosts": (START + b"host: y\r\n" + REST, 400),
    **{
        f"Host: {value[:20]!r}": (LINE + b"\r\nHost: " + value + b"\r\n" + REST, 400)
        for value in (
            b"a b", b"a/b", b"a@b", b"http://x", b"x:y", b"x:80:80", b"[::1", b"::1]", b"x#", b"x?",
            b"<x>", b"\xff", b"a\x01", b"x" * 300 + b"@",
        )
    },
    # chunks
    **{
        f"the chunks {chunks[:24]!r}": (CHUNKED + chunks, 400)
        for chunks in (
            b"1" + b"0" * 16 + b"c\r\n" + BODY + b"\r\n0\r\n\r\n",  # more than 64 bits
            b"f" * 17 + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
            b"-c\r\n" + BODY + b"\r\n0\r\n\r\n",
            b"+c\r\n" + BODY + b"\r\n0\r\n\r\n",
            b"0xc\r\n" + BODY + b"\r\n0\r\n\r\n",
            b" c\r\n" + BODY + b"\r\n0\r\n\r\n",
            b"c \r\n" + BODY + b"\r\n0\r\n\r\n",
            b"c\t\r\n" + BODY + b"\r\n0\r\n\r\n",
            b"\r\n" + BODY + b"\r\n0\r\n\r\n",
            b"c\n" + BODY + b"\r\n0\r\n\r\n",
            b"c;a\n" + BODY + b"\r\n0\r\n\r\n",
            b"c;a\rb\r\n" + BODY + b"\r\n0\r\n\r\n",
            b'c;a="\n"\r\n' + BODY + b"\r\n0\r\n\r\n",
            b'c;a="\x00"\r\n' + BODY + b"\r\n0\r\n\r\n",
            b"c\r\n" + BODY + b"0\r\n\r\n",  # nothing between a chunk and the next
            b"c\r\n" + BODY + b"\n0\r\n\r\n",
            b"c\r\n" + BODY + b"XX0\r\n\r\n",
            b"c\r\n" + BODY + b"\r\n0\n\n",
            b"c\r\n" + BODY + b"\r\n0\r\n\n",
            b"c\r\n" + BODY + b"\r\n0\r\nno colon\r\n\r\n",
            b"c\r\n" + BODY + b"\r\n0\r\nX: y\nZ: a\r\n\r\n",
            b"c\r\n" + BODY + b"\r\n0\r\nContent-Length: 12\r\n\r\n",
            b"c\r\n" + BODY + b"\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"c\r\n" + BODY + b"\r\n0\r\nHost: y\r\n\r\n",
            b"c\r\n" + BODY + b"\r\n0\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        )
    },
}  # fmt: skip

#: Odd, but there is one way to read it.
PLAIN: dict[str, bytes] = {
    "a length with zeros": field(b"Content-Length: 0012") + BODY,
    "a length with very many": field(b"Content-Length: " + b"0" * 5000 + b"12\r\nExpect:") + BODY,
    "a length with spaces around": field(b"Content-Length:  12 ") + BODY,
    "CHUNKED": field(b"Transfer-Encoding: CHUNKED") + CHUNKS,
    "a name that only looks like another": START + b"Transfer_Encoding: chunked\r\n" + REST,
    "a chunk's extension": CHUNKED + b'c;a="b;\\"c"\r\n' + BODY + b"\r\n0;z\r\n\r\n",
    "a chunk size with zeros": CHUNKED + b"0" * 30 + b"C\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a trailer": CHUNKED + b"c\r\n" + BODY + b"\r\n0\r\nX-Sum: 1\r\n\r\n",
    "line breaks before it": b"\r\n\r\n" + START + REST,
    "several spaces between the words of its first line": line(LINE.replace(b" ", b"  ")),
    "a whole URL": line(LINE.replace(b"/v1", b"http://other/v1")),
    "bytes that are not ASCII": START + b"X: \xff\r\n" + REST,
    "an empty host": LINE + b"\r\nHost:\r\n" + REST,
    "an address as host": LINE + b"\r\nHost: [2001:db8::1]:8080\r\n" + REST,
    "a long host": LINE + b"\r\nHost: " + b"x" * 300 + b"\r\n" + REST,
}

# What is refused leaves no trace in the gateway, so that one serves all the tests.
pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest_asyncio.fixture(scope="module", loop_scope="module")


@shared
async def running() -> AsyncIterator[tuple[Remote, str]]:
    async with remote(cambrion_script) as far, gateway(CONFIG.format(url=far.url)) as base:
        yield far, base


@pytest.fixture
def far(running: tuple[Remote, str]) -> Remote:
    """The upstream, which has seen nothing yet."""
    running[0].seen.clear()
    return running[0]


@pytest.fixture
def base(running: tuple[Remote, str]) -> str:
    return running[1]


def ids(far: Remote) -> list[str]:
    """Which of the requests that have one of their own the upstream has seen."""
    return [
        seen.headers["x-request-id"]
        for seen in far.seen
        if seen.headers["x-request-id"] in ("hidden", "next")
    ]


async def read_answers(connection: Raw, count: int) -> list[int]:
    """The statuses of the next ``count`` answers, each of which tells its length."""
    data = b""
    found: list[int] = []
    async with patience():
        while len(found) < count:
            head, end, rest = data.partition(b"\r\n\r\n")
            status, fields, _ = answer(head) if end else (0, {}, b"")
            length = int(fields.get("content-length", 0))
            if status and len(rest) >= length:
                found.append(status)
                data = rest[length:]
                continue
            piece = await connection.read()
            assert piece, (found, data)
            data += piece
    assert data == b""
    return found


async def read_ended(connection: Raw) -> list[int]:
    """The statuses of all answers there are before the gateway closes the connection."""
    async with patience():
        data = await connection.read_all()
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", data)]


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
async def test_what_could_be_read_in_two_ways_ends_its_connection(
    far: Remote, base: str, data: bytes, status: int
) -> None:
    async with raw(base) as connection:
        await connection.send(data + HIDDEN)
        assert await read_ended(connection) == [status]
    assert far.seen == []


@pytest.mark.parametrize("data", VERSIONS.values(), ids=VERSIONS)
async def test_a_version_that_is_not_spoken_here_is_named(
    far: Remote, base: str, data: bytes
) -> None:
    async with raw(base) as connection:
        await connection.send(data)
        assert await read_ended(connection) == [505]
    assert far.seen == []


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN)
async def test_what_is_only_odd_is_one_request_and_the_next_one_follows(
    far: Remote, base: str, data: bytes
) -> None:
    async with raw(base) as connection:
        await connection.send(data + NEXT)
        assert await read_answers(connection, 2) == [200, 200]
    assert ids(far) == ["next"]
    assert [json.loads(seen.body)["text"] for seen in far.seen] == ["a", "a"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/healthz", "/nope", "/v1/pipelines/doc/executeSync"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_request_within_a_body_never_runs(
    far: Remote, base: str, method: str, path: str, chunked: bool
) -> None:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n".encode()
    if chunked:
        body = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
    else:
        body = b"Content-Length: %d\r\n\r\n%b" % (len(HIDDEN), HIDDEN)
    async with raw(base) as connection:
        await connection.send(head + body + NEXT)
        if method == "HEAD":
            await until(lambda: ids(far) == ["next"])
        else:
            first, second = await read_answers(connection, 2)
            assert first in (200, 400, 404, 405)
            assert second == 200
    assert ids(far) == ["next"]


@pytest.mark.parametrize(
    "asked",
    [
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        b"Connection: upgrade\r\nUpgrade: TLS/1.0\r\n",
    ],
)
async def test_who_asks_for_another_protocol_is_answered_in_this_one_and_nothing_more(
    far: Remote, base: str, asked: bytes
) -> None:
    async with raw(base) as connection:
        await connection.send(START + asked + REST + HIDDEN)
        assert await read_ended(connection) == [200]
    assert len(far.seen) == 1
    assert ids(far) == []


async def test_who_offers_h2c_with_each_request_keeps_the_connection_in_this_protocol(
    far: Remote, base: str
) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    body = b"Content-Length: %d\r\n\r\n%b" % (len(HIDDEN), HIDDEN)
    async with raw(base) as connection:
        await connection.send(START + offer + REST)
        assert await read_answers(connection, 1) == [200]
        await connection.send(START + offer + body)  # a body is one whatever is offered
        (second,) = await read_answers(connection, 1)
        assert second == 400
        await connection.send(NEXT)
        assert await read_answers(connection, 1) == [200]
    assert ids(far) == ["next"]


async def test_nothing_is_read_behind_a_request_that_asks_to_close(far: Remote, base: str) -> None:
    async with raw(base) as connection:
        await connection.send(START + b"Connection: close\r\n" + REST + HIDDEN)
        await read_ended(connection)
    assert ids(far) == []


async def test_a_body_that_is_cut_short_runs_nothing(far: Remote, base: str) -> None:
    for data in (START + b"Content-Length: 99\r\n\r\n" + BODY, CHUNKED + b"c\r\n" + BODY):
        async with raw(base) as connection:
            await connection.send(data)
    async with raw(base) as connection:
        await connection.send(NEXT)
        assert await read_answers(connection, 1) == [200]
    assert ids(far) == ["next"]
    assert len(far.seen) == 1


@pytest.mark.parametrize("bad", [b"\r\nXX\r\n", b"0\r\n\r\n", b"\r\n0\r\nno colon\r\n\r\n"])
async def test_a_body_that_breaks_off_into_nonsense_is_told_at_once(
    far: Remote, base: str, bad: bytes
) -> None:
    async with raw(base) as connection:
        await connection.send(CHUNKED + b"c\r\n")
        await connection.send(b"100-continue"[:6])
        async with raw(base) as other:  # by the end of this the first two pieces have been read
            await other.send(NEXT)
            assert await read_answers(other, 1) == [200]
        await connection.send(b"100-continue"[6:] + bad + HIDDEN)
        assert await read_ended(connection) == [400]  # and not, at some time, 408
    assert ids(far) == ["next"]


async def test_what_stands_in_a_trailer_is_no_header(far: Remote) -> None:
    async with gateway(CONFIG.format(url=far.url) + KEYS.format()) as base:
        for head, trailer, status in (
            (b"", b"X-API-Key: %b\r\nX-Request-Id: hidden\r\n" % KEY.encode(), 401),
            (b"X-API-Key: %b\r\n" % KEY.encode(), b"X-Request-Id: hidden\r\n", 200),
        ):
            async with raw(base) as connection:
                await connection.send(
                    START + head + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS[:-2] + trailer
                )
                await connection.send(b"\r\n")
                assert await read_answers(connection, 1) == [status]
    assert len(far.seen) == 1
    assert ids(far) == []


# Answers of upstreams that could be read in two ways


def whole(text: str) -> bytes:
    """A whole answer whose observation has this text."""
    body = json.dumps({"observation": OBSERVATION | {"rawText": text}}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


GOOD = whole("good")
EVIL = whole("evil")
HEAD, _, DATA = GOOD.partition(b"\r\n\r\n")

#: With the status that the caller gets.
ANSWERS: dict[str, tuple[bytes, int]] = {
    "a second answer": (GOOD + EVIL, 200),
    "a second answer after line breaks": (GOOD + b"\r\n\r\n" + EVIL, 200),
    "a second answer after chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (len(DATA), DATA) + EVIL,
        200,
    ),
    "a second answer after none": (b"HTTP/1.1 204 No Content\r\n\r\n" + EVIL, 502),
    "a second answer after 304": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n" + EVIL, 502,
    ),
    "a length and chunks": (HEAD + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL, 502),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + GOOD[17:] + EVIL, 502),
    "a list of lengths": (HEAD + b", 0\r\n\r\n" + DATA + EVIL, 502),
    "two codings": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + EVIL, 502,
    ),
    "a line break in a value": (HEAD + b"\r\nX: a\nY: b\r\n\r\n" + DATA + EVIL, 502),
    "a length in a trailer": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n"
        b"Content-Length: 5\r\n\r\n" % (len(DATA), DATA) + EVIL,
        502,
    ),
    "another protocol": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + EVIL,
        502,
    ),
}  # fmt: skip


async def ask(base: str) -> tuple[int, bytes]:
    async with (
        client(base) as session,
        session.post("/v1/pipelines/doc/executeSync", json={"text": "x"}) as response,
    ):
        return response.status, await response.read()


@pytest.mark.parametrize(("given", "status"), ANSWERS.values(), ids=ANSWERS)
async def test_what_an_upstream_adds_to_an_answer_is_never_that_of_another_call(
    given: bytes, status: int
) -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.send(given if len(hostile.seen) == 1 else GOOD)

    async with remote(script) as hostile, gateway(CONFIG.format(url=hostile.url)) as base:
        first, body = await ask(base)
        assert first == status
        assert b"evil" not in body
        for _ in range(2):
            again, body = await ask(base)
            assert again == 200
            assert b"good" in body


async def test_what_an_upstream_says_unasked_is_no_answer_to_what_is_asked_later() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.send(GOOD)
        if len(hostile.seen) == 1:
            async with patience():
                await answered.wait()
            await peer.send(EVIL)

    answered = asyncio.Event()
    async with remote(script) as hostile, gateway(CONFIG.format(url=hostile.url)) as base:
        assert (await ask(base))[0] == 200
        answered.set()
        await until(lambda: hostile.open_connections == 0)
        status, body = await ask(base)
        assert status == 200
        assert b"good" in body
