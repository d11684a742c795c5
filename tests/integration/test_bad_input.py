"""What callers get wrong: each mistake is told in the caller's own dialect, and never a 500."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.support.remote import Remote, remote
from tests.support.running import client, gateway
from tests.support.scripts import cambrion_script, pupau_script
from tests.support.timing import patience

CONFIG = """
server: {{port: 0, forward_headers: [X-Tenant]}}
bounds: {{body_bytes_max: 1000000, parts_max: 8, media_max: 4}}
upstreams:
  remote-cambrion: {{kind: cambrion, url: "{cambrion}/v1"}}
  remote-pupau: {{kind: pupau, url: "{pupau}"}}
pipelines:
  doc: {{upstream: remote-cambrion}}
  chat: {{upstream: remote-pupau}}
"""

EXECUTE = "/v1/pipelines/doc/executeSync"
QUERY = "/pipelines/chat/queries"
JSON = {"Content-Type": "application/json"}


# No mistake leaves a trace in the gateway, so that one serves all the tests.
pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest_asyncio.fixture(scope="module", loop_scope="module")


@shared
async def remotes() -> AsyncIterator[tuple[Remote, Remote]]:
    async with remote(cambrion_script) as cambrion, remote(pupau_script) as pupau:
        yield cambrion, pupau


@pytest.fixture
def upstreams(remotes: tuple[Remote, Remote]) -> tuple[Remote, Remote]:
    """The two, which have seen nothing yet."""
    for each in remotes:
        each.seen.clear()
    return remotes


@shared
async def base(remotes: tuple[Remote, Remote]) -> AsyncIterator[str]:
    cambrion, pupau = remotes
    async with gateway(CONFIG.format(cambrion=cambrion.url, pupau=pupau.url)) as base:
        yield base


@shared
async def session(base: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with client(base) as session:
        yield session


def check_error(path: str, answer: Any) -> str:
    """The answer is an error of the path's dialect; returns its message."""
    kind = "name" if path.startswith("/pipelines") else "code"
    assert set(answer) == {kind, "message"}
    assert answer[kind]
    assert isinstance(answer["message"], str)
    return str(answer["message"])


BAD_BODIES: list[tuple[str, bytes, int, str]] = [
    (path, body, 400, message)
    for path in (EXECUTE, QUERY)
    for body, message in [
        (b"", "is empty"),
        (b"{", "not valid JSON"),
        (b"[]", "expected `object`"),
        (b"[" * 1_000_000, ""),
        (b'{"observation":' + b"[" * 900_000, ""),
        (b'{"a":1,"a":1}', "unknown field"),
        (b"\xff\xfe{", "not valid JSON"),
        (b"--x\r\n", "not valid JSON"),
    ]
] + [
    (EXECUTE, b'{"text":NaN}', 400, "not valid JSON"),
    (QUERY, b'{"request":NaN}', 400, "not valid JSON"),
    (EXECUTE, b'{"text":"\\ud800"}', 400, "surrogate"),
    (EXECUTE, b'{"text":"a","text":"b"}', 400, 'the key "text" more than once'),
    (EXECUTE, b'{"text":1}', 400, "text: expected"),
    (EXECUTE, b'{"media":["aGk"]}', 400, "media[0]: not valid base64: its padding"),
    (EXECUTE, b'{"media":["a_-k"]}', 400, "URL-safe"),
    (EXECUTE, b'{"media":["aG k"]}', 400, "white space"),
    (EXECUTE, b'{"media":["aGk=","aGk=","aGk=","aGk=","aGk="]}', 400, "5 files"),
    (EXECUTE, b"{}", 400, "nothing to run on"),
    (EXECUTE, b'{"executionId":"e"}', 400, "executionId"),
    (EXECUTE + "/transform", b'{"text":"a"}', 400, "transform: missing"),
    (EXECUTE + "/transform", b'{"text":"a","transform":"(("}', 400, "line 1"),
    (QUERY, b'{"request":"a","request":"b"}', 400, 'the key "request" more than once'),
    (QUERY, b"{}", 400, "nothing to run on"),
    (QUERY + "?sse=maybe", b'{"request":"a"}', 400, "sse: expected true or false"),
    (EXECUTE, b'{"text":"' + b"x" * 1_000_000 + b'"}', 413, "body_bytes_max"),
    (QUERY, b'{"request":"' + b"x" * 1_000_000 + b'"}', 413, "body_bytes_max"),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), BAD_BODIES)
async def test_a_bad_body_is_told_in_the_callers_dialect(
    session: aiohttp.ClientSession, path: str, body: bytes, status: int, message: str
) -> None:
    async with session.post(path, data=body, headers=JSON) as response:
        assert response.status == status
        assert message in check_error(path, await response.json())
        assert response.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", EXECUTE, 405),
        ("DELETE", "/v1/pipelines/doc", 405),
        ("GET", QUERY, 405),
        ("POST", "/v1/pipelines/nope/executeSync", 404),
        ("GET", "/v1/pipelines/nope", 404),
        ("GET", "/v1/pipelines/nope/definition", 404),
        ("POST", "/pipelines/nope/queries", 404),
        ("POST", "/pipelines/%00%0a/queries", 404),
        ("POST", "/v1/pipelines/doc/executeAsync", 400),
        ("GET", "/v1/executions/e-1", 400),
        ("GET", "/nope", 404),
    ],
)
async def test_a_wrong_path_or_method_is_told_in_the_callers_dialect(
    session: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    async with session.request(method, path, data=b'{"text":"x"}', headers=JSON) as response:
        assert response.status == status
        check_error(path, await response.json())
        assert ("Allow" in response.headers) == (status == 405)


async def test_a_body_of_unknown_length_is_cut_at_the_limit(
    session: aiohttp.ClientSession,
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    async with session.post(EXECUTE, data=endless(), headers=JSON) as response:
        assert response.status == 413
        check_error(EXECUTE, await response.json())


async def test_a_compressed_body_is_read_and_a_bomb_is_not(
    session: aiohttp.ClientSession,
) -> None:
    gzipped = {"Content-Encoding": "gzip"} | JSON
    good = gzip.compress(b'{"text":"x"}')
    bomb = gzip.compress(b'{"text":"' + bytes(20_000_000))
    assert len(bomb) < 1_000_000
    for body, headers, status in [
        (good, gzipped, 200),
        (bomb, gzipped, 413),
        (b"not gzip", gzipped, 400),
        (good[:-6], gzipped, 400),
        (good, {"Content-Encoding": "br"} | JSON, 415),
    ]:
        async with session.post(EXECUTE, data=body, headers=headers) as response:
            assert response.status == status, await response.text()
            if status != 200:
                check_error(EXECUTE, await response.json())


def multipart(parts: list[bytes], boundary: str = "b") -> bytes:
    lines = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts)
    return lines + f"--{boundary}--\r\n".encode()


FIELD = b'Content-Disposition: form-data; name="request"\r\n\r\nhi'
NAMELESS = b'Content-Disposition: form-data; name=""\r\n\r\nhi'
ENCODED = (
    b'Content-Disposition: form-data; name="file"; filename="a"\r\n'
    b"Content-Transfer-Encoding: base64\r\n\r\naGk="
)
NOT_UTF8 = b'Content-Disposition: form-data; name="file"; filename="\xff.png"\r\n\r\nhi'
FILE = b'Content-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhi'


@pytest.mark.parametrize(
    ("content_type", "body", "status", "message"),
    [
        ("multipart/form-data; boundary=b", multipart([FIELD, FILE]), 200, ""),
        ("multipart/form-data", multipart([FIELD]), 400, "no boundary"),
        ("multipart/form-data; boundary=other", multipart([FIELD]), 400, "cannot be read"),
        ("multipart/form-data; boundary=b", b"", 400, ""),
        ("multipart/form-data; boundary=b", b"--b\r\n" + FIELD, 400, ""),
        ("multipart/form-data; boundary=b", multipart([FILE] * 100_000)[:900_000], 413, "parts"),
        ("multipart/form-data; boundary=b", multipart([FILE] * 9), 413, "more than 8 parts"),
        ("multipart/form-data; boundary=b", multipart([b"X: y\r\n\r\nhi"]), 400, "well-formed"),
        ("multipart/form-data; boundary=b", multipart([NAMELESS]), 400, "part 1 has no name"),
        ("multipart/form-data; boundary=b", multipart([ENCODED]), 415, "Transfer-Encoding base64"),
        ("multipart/form-data; boundary=b", multipart([NOT_UTF8]), 400, "well-formed"),
        (
            "multipart/form-data; boundary=b",
            b"\r\n" * 499_000 + multipart([FIELD]),
            200,
            "",
        ),
        ("multipart/form-data; boundary=b", multipart([FILE] * 5), 400, "5 files"),
        (
            "multipart/form-data; boundary=b",
            multipart([b"Content-Type: multipart/mixed; boundary=c\r\n\r\n--c--"]),
            400,
            "",
        ),
        ("multipart/form-data; boundary=b", multipart([FILE + b"x" * 1_000_000]), 413, "limit"),
    ],
)
async def test_a_bad_form_is_told_in_the_callers_dialect(
    session: aiohttp.ClientSession, content_type: str, body: bytes, status: int, message: str
) -> None:
    headers = {"Content-Type": content_type}
    async with session.post(QUERY, data=body, headers=headers) as response:
        assert response.status == status, await response.text()
        if status != 200 and message != "limit":
            assert message in check_error(QUERY, await response.json())


async def raw(base: str, request: bytes) -> bytes:
    """Send bytes as they are, and read until the gateway closes."""
    host, port = base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = b""
    async with patience():
        while piece := await reader.read(65536):
            answer += piece
    writer.close()
    return answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"POST /v1/pipelines/doc/executeSync HTTP/1.1\r\nHost: x\r\nX-Tenant: a\rb\r\n\r\n",
        b"POST /v1/pipelines/doc/executeSync HTTP/1.1\r\nHost: x\r\nX-Tenant: a\x00b\r\n\r\n",
        b"POST /v1/pipelines/doc/executeSync HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nX-Big: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_an_error_that_both_dialects_can_read(
    base: str, upstreams: tuple[Remote, Remote], request_bytes: bytes
) -> None:
    answer = await raw(base, request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ", 2)[1] == b"400"
    assert set(json.loads(body)) == {"code", "name", "message"}
    assert upstreams[0].seen == []


async def test_header_text_from_a_form_cannot_reach_the_upstreams_headers(
    session: aiohttp.ClientSession, upstreams: tuple[Remote, Remote]
) -> None:
    encoded = b"a%22%0D%0AX-Evil%3A%201%0D%0A%0D%0A.txt"
    part = b"Content-Disposition: form-data; name=\"file\"; filename*=utf-8''%b\r\n\r\nhi"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    body = multipart([part % encoded])
    async with session.post(QUERY, data=body, headers=headers) as response:
        assert response.status == 200
    sent = upstreams[1].seen[0].body
    assert b"X-Evil" in sent  # the name did arrive,
    assert b"\nX-Evil" not in sent  # but as a name
    assert sent.count(b"Content-Disposition") == 1


@pytest.mark.parametrize("given", ["a b", "x" * 129, "é", '"><'])
async def test_a_request_id_that_could_forge_something_is_replaced(
    session: aiohttp.ClientSession, given: str
) -> None:
    async with session.get("/healthz", headers={"X-Request-Id": given}) as response:
        assert response.headers["X-Request-Id"] != given


async def test_a_pdf_that_cannot_be_opened_is_named(session: aiohttp.ClientSession) -> None:
    body = {"media": ["JVBERi0xLjQgYnJva2Vu"], "tryImageConversion": True}
    async with session.post("/v1/pipelines/chat/executeSync", json=body) as response:
        assert response.status == 400
        assert "media-1: the PDF cannot be opened" in (await response.json())["message"]


async def test_a_field_that_the_upstream_cannot_honour_is_refused(
    session: aiohttp.ClientSession,
) -> None:
    body = {"text": "x", "trySimpleText": True}
    async with session.post("/v1/pipelines/chat/executeSync", json=body) as response:
        assert response.status == 400
        assert (await response.json())["code"] == "not_supported"
