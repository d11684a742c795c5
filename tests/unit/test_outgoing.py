"""Requests as bytes: their heads line for line, their bodies piece for piece."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import __version__
from gateway.errors import RequestRejected
from gateway.model import Media
from gateway.upstreams.outgoing import Body, Heads, Origin

ORIGINS = [
    ("http://api.example/v1", (False, "api.example", 80, "/v1", "api.example")),
    ("https://API.example", (True, "api.example", 443, "", "api.example")),
    ("https://api.example:443/", (True, "api.example", 443, "", "api.example")),
    ("http://api.example:443/a/b/", (False, "api.example", 443, "/a/b", "api.example:443")),
    ("http://127.0.0.1:8080", (False, "127.0.0.1", 8080, "", "127.0.0.1:8080")),
    ("http://[::1]/v1", (False, "::1", 80, "/v1", "[::1]")),
    ("https://[2001:db8::1]:8443", (True, "2001:db8::1", 8443, "", "[2001:db8::1]:8443")),
    ("http://[fe80::1%25eth0]:81", (False, "fe80::1%eth0", 81, "", "[fe80::1]:81")),
    ("http://api.example/%7Ea%20b", (False, "api.example", 80, "/%7Ea%20b", "api.example")),
]


@pytest.mark.parametrize(("url", "expected"), ORIGINS, ids=[origin[0] for origin in ORIGINS])
def test_an_origin_is_read_from_a_url(url: str, expected: tuple[bool, str, int, str, str]) -> None:
    origin = Origin(url)
    assert (origin.https, origin.host, origin.port, origin.path, origin.written) == expected


def heads(key: str | None = "secret") -> Heads:
    return Heads(Origin("http://api.example:8080/v1"), key_header="X-API-Key", key=key)


def post(given: Heads, path: str = "/pipelines/p", **other: object) -> list[str]:
    arguments: dict[str, object] = {
        "accept": "text/event-stream",
        "request_id": "r-1",
        "content_type": "application/json",
        "length": 12,
        "headers": {},
    }
    head = given.post(path, **(arguments | other))  # type: ignore[arg-type]
    assert head.endswith(b"\r\n\r\n")
    return head.decode().removesuffix("\r\n\r\n").split("\r\n")


AGENT = f"User-Agent: pipeline-gateway/{__version__}"
POSTED = [
    "POST /v1/pipelines/p HTTP/1.1",
    "Host: api.example:8080",
    "Accept-Encoding: identity",
    "X-API-Key: secret",
    "Accept: text/event-stream",
    "X-Request-Id: r-1",
    "Content-Type: application/json",
    "Content-Length: 12",
    AGENT,
]


def test_a_head_has_each_line_once() -> None:
    given = heads()
    assert post(given) == POSTED
    assert post(given) == POSTED  # the lines that were kept


def test_a_request_without_a_body_tells_no_length() -> None:
    assert heads(key=None).get("/pipelines", request_id="ready") == (
        b"GET /v1/pipelines HTTP/1.1\r\nHost: api.example:8080\r\nAccept-Encoding: identity\r\n"
        b"Accept: application/json\r\nX-Request-Id: ready\r\n" + AGENT.encode() + b"\r\n\r\n"
    )


def test_the_clients_headers_go_along_and_its_agent_takes_the_place_of_the_own() -> None:
    assert post(heads(), headers={"x-tenant": "acme"}) == [*POSTED, "x-tenant: acme"]
    given = {"user-agent": "old/1", "x-name": "Zoë\tü", "x-half": "\ud800"}
    sent = [*POSTED[:-1], "user-agent: old/1", "x-name: Zoë\tü", "x-half: ?"]
    assert post(heads(), headers=given) == sent


@pytest.mark.parametrize("bad", ["a\r\nX: b", "a\nb", "a\rb", "a\0b", "a\x1bb", "a\x7fb", "é\n"])
def test_a_control_character_is_never_sent(bad: str) -> None:
    for other in (
        {"headers": {"x-tenant": bad}},
        {"request_id": bad},
        {"content_type": bad},
        {"path": bad},
    ):
        with pytest.raises(RequestRejected, match="control character"):
            post(heads(), **other)
    with pytest.raises(RequestRejected, match="control character"):
        heads().get("/", request_id=bad)
    with pytest.raises(RequestRejected, match="X-API-Key holds a control"):
        heads(key=bad)


def test_lines_are_kept_for_so_many_paths_only() -> None:
    given = heads()
    for number in range(5000):
        given.get(f"/pipelines/{number}", request_id="r")
    assert len(given._kept) <= 4096
    assert given.get("/pipelines/1", request_id="r").startswith(b"GET /v1/pipelines/1 HTTP/1.1\r\n")


def media(data: bytes) -> Media:
    return Media("m", data, "image/png")


BODIES = [
    (Body("application/json", [b"{}"]), b"{}"),
    (Body("application/json", []), b""),
    (Body("text/plain", [b"a", b"", b"b"]), b"ab"),
    (Body("multipart/form-data", [b"<", media(b"\x00\xff"), b">"]), b"<\x00\xff>"),
    (Body("application/json", [b'"', media(b"\x00\xff"), b'"'], base64=True), b'"AP8="'),
    (Body("application/json", [media(b"")], base64=True), b""),
]


@pytest.mark.parametrize(("body", "sent"), BODIES)
def test_a_body_is_its_segments(body: Body, sent: bytes) -> None:
    assert b"".join(body.pieces()) == sent
    assert body.after(b"head") == b"head" + sent
    assert body.length == len(sent)


@given(st.lists(st.integers(0, 400_000), max_size=4), st.booleans())
def test_a_large_body_comes_in_pieces_of_a_bounded_size(sizes: list[int], base64_: bool) -> None:
    data = [bytes([index]) * size for index, size in enumerate(sizes)]
    body = Body("x", [media(each) for each in data], base64=base64_)
    pieces = list(body.pieces())
    assert b"".join(pieces) == b"".join(
        base64.b64encode(each) if base64_ else each for each in data
    )
    assert body.length == sum(map(len, pieces))
    assert all(0 < len(piece) <= 256 * 1024 for piece in pieces)
