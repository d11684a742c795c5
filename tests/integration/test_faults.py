"""Upstreams that fail: the caller gets the right status, and a message that names the upstream."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from typing import Any

import aiohttp
import pytest

from tests.support.client import read_events
from tests.support.remote import Peer, Script, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import EVENTS, answering, frames
from tests.support.timing import until

CONFIG = """
bounds: {{event_bytes_max: 100000, answer_bytes_max: 1000000}}
upstreams:
  far:
    kind: {kind}
    url: "{url}"
    api_key: upstream-key
    breaker: {{failures: 0, calls_min: 1000}}
pipelines:
  p:
    upstream: far
    timeouts: {{connect_s: 1, first_event_s: 0.5, idle_s: 0.5}}
"""

#: How a caller asks: path, body, headers.
FORMS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "execute": ("/v1/pipelines/p/executeSync", {"text": "x"}, {}),
    "execute-stream": (
        "/v1/pipelines/p/executeSync",
        {"text": "x"},
        {"Accept": "text/event-stream"},
    ),
    "query": ("/pipelines/p/queries", {"request": "x"}, {}),
    "query-stream": ("/pipelines/p/queries?sse=true", {"request": "x"}, {}),
}


def hanging(after: bytes = b"") -> Script:
    async def script(seen: Seen, peer: Peer) -> None:
        if after:
            await peer.send(after)
        await seen.gone.wait()

    return script


async def silent_body(seen: Seen, peer: Peer) -> None:
    await peer.open_stream("text/event-stream" if "sse=true" in seen.path else "application/json")
    await seen.gone.wait()


def cutting(after: bytes) -> Script:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.send(after)
        peer.cut()

    return script


async def endless(seen: Seen, peer: Peer) -> None:
    await peer.open_stream("text/event-stream" if "sse=true" in seen.path else "application/json")
    while not seen.gone.is_set():
        await peer.chunk(b"x" * 65536)


#: Those that go on until the gateway hangs up, which it must.
WAITING = (silent := hanging(), silent_body, endless)

HTML = b"<html><body>500 upstream-key</body></html>"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

FAULTS: list[tuple[str, Script, int, str]] = [
    ("401", answering(b'{"message":"no"}', "401 Unauthorized"), 502, "the gateway's own key"),
    (
        "404",
        answering(b'{"message":"what?"}', "404 Not Found"),
        502,
        "no such pipeline (404: what?",
    ),
    ("400", answering(b'{"message":"bad pdf"}', "400 Bad Request"), 400, "bad pdf"),
    ("429", answering(b"{}", "429 Too Many", headers=("Retry-After: 7",)), 429, "answered 429"),
    ("503", answering(b"", "503 Unavailable", headers=("Retry-After: 7",)), 503, "answered 503"),
    ("500", answering(HTML, "500 Oops", "text/html"), 502, "answered 500 with text/html"),
    ("504", answering(b"", "504 Timeout"), 504, "answered 504"),
    ("302", answering(b"", "302 Found", headers=("Location: http://127.0.0.1:1/",)), 502, "302"),
    ("echo", answering(b'{"message":"key upstream-key"}', "500 Oops"), 502, "key ***"),
    ("not json", answering(b"hello"), 502, ""),
    ("not http", cutting(b"hello, who is there?\r\n\r\n"), 502, "not HTTP"),
    ("closed", cutting(b""), 502, "far"),
    ("short body", cutting(HEAD + b'Content-Length: 99\r\n\r\n{"a'), 502, ""),
    ("silent", silent, 504, "first_event_s"),
    ("silent body", silent_body, 504, "first_event_s"),
    (
        "zipped",
        answering(gzip.compress(bytes(50_000_000)), headers=("Content-Encoding: gzip",)),
        502,
        "",
    ),
    ("brotli", answering(b"x", headers=("Content-Encoding: br",)), 502, ""),
    ("endless", endless, 502, "bytes_max"),
]


async def each_form(base: str, status: int, *messages: str) -> None:
    """Ask in every form at once; each is answered with ``status``, an error of its own dialect,
    and a message that names the upstream and holds ``messages``."""

    async def ask(session: aiohttp.ClientSession, form: str) -> None:
        path, body, headers = FORMS[form]
        async with session.post(path, json=body, headers=headers) as response:
            text = await response.text()
            assert response.status == status, (form, text)
            if status in (429, 503):
                assert response.headers["Retry-After"] == "7"
        answer = json.loads(text)
        assert set(answer) == {"name" if form.startswith("query") else "code", "message"}, form
        for said in ("upstream far", *messages):
            assert said in answer["message"], form
        assert "upstream-key" not in text

    async with client(base) as session:
        await asyncio.gather(*(ask(session, form) for form in FORMS))


@pytest.mark.parametrize("kind", ["cambrion", "pupau"])
@pytest.mark.parametrize(
    ("script", "status", "message"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS]
)
async def test_a_fault_before_the_first_event_has_its_status(
    kind: str, script: Script, status: int, message: str
) -> None:
    async with remote(script) as far, gateway(CONFIG.format(kind=kind, url=far.url)) as base:
        await each_form(base, status, message)
        await until(lambda: not (far.open_connections and script in WAITING))


@pytest.mark.parametrize("kind", ["cambrion", "pupau"])
async def test_an_upstream_that_is_not_there_is_told_apart(kind: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{unused.getsockname()[1]}"
        for url, message in [
            (refused, "cannot be reached"),
            ("http://no-such-host.invalid", "does not resolve"),
        ]:
            async with gateway(CONFIG.format(kind=kind, url=url)) as base:
                await each_form(base, 502, message)


START = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

CUTS: list[tuple[str, Script, str]] = [
    ("between events", cutting(START + frames(EVENTS[:3])), ""),
    ("in mid-event", cutting(START + frames(EVENTS[:3]) + b'data: {"ty'), ""),
    ("event too long", cutting(START + frames(EVENTS[:3]) + b"data: " + b"x" * 200_000), "100000"),
    ("silent", hanging(START + frames(EVENTS[:3])), "idle_s"),
]


@pytest.mark.parametrize("form", ["execute-stream", "query-stream"])
@pytest.mark.parametrize(("script", "message"), [c[1:] for c in CUTS], ids=[c[0] for c in CUTS])
async def test_a_stream_that_fails_midway_ends_with_the_error_as_its_last_response(
    form: str, script: Script, message: str
) -> None:
    path, body, headers = FORMS[form]
    async with (
        remote(script) as far,
        gateway(CONFIG.format(kind="pupau", url=far.url)) as base,
        client(base) as session,
        session.post(path, json=body, headers=headers) as response,
    ):
        assert response.status == 200
        events = await read_events(response)
    assert events[:2] == EVENTS[:2]
    last = events[-1]
    assert last["type"] == "LAYER_RESPONSE"
    assert last["last"] is True
    error = last["responses"][0]["errors"][0]
    assert "upstream far" in error["message"]
    assert message in error["message"]
    assert error["name"].startswith("Upstream")


async def test_an_event_that_is_not_json_ends_a_stream_that_has_to_be_read() -> None:
    path, body, headers = FORMS["execute-stream"]
    async with (
        remote(cutting(START + frames(EVENTS[:2]) + b"data: hello\n\n")) as far,
        gateway(CONFIG.format(kind="pupau", url=far.url)) as base,
        client(base) as session,
        session.post(path, json=body, headers=headers) as response,
    ):
        events = await read_events(response)
    assert events[:2] == EVENTS[:2]
    error = events[2]["responses"][0]["errors"][0]
    assert error["name"] == "UpstreamInvalid"
    assert "upstream far: an event of its stream cannot be read" in error["message"]


@pytest.mark.parametrize("form", ["execute-stream", "query-stream"])
async def test_a_stream_that_ends_well_but_too_early_is_an_error(form: str) -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(frames(EVENTS[:5]))
        await peer.end()

    path, body, headers = FORMS[form]
    async with (
        remote(script) as far,
        gateway(CONFIG.format(kind="pupau", url=far.url)) as base,
        client(base) as session,
        session.post(path, json=body, headers=headers) as response,
    ):
        events = await read_events(response)
    assert events[:5] == EVENTS[:5]
    assert "before its last layer" in events[-1]["responses"][0]["errors"][0]["message"]


FAILED: dict[str, Any] = {
    "type": "LAYER_RESPONSE",
    "layerId": "0",
    "responses": [
        {
            "actorId": "a",
            "message": "",
            "errors": [{"message": "Invalid PDF structure.", "name": "InvalidPDFException"}],
            "info": [],
        }
    ],
    "last": True,
}


async def failing_actor(seen: Seen, peer: Peer) -> None:
    if "sse=true" in seen.path:
        await peer.open_stream()
        await peer.chunk(frames([EVENTS[0], FAILED]))
        await peer.end()
    else:
        await peer.answer(json.dumps(FAILED["responses"]).encode())


async def test_an_actor_that_fails_is_reported_in_every_form() -> None:
    async with (
        remote(failing_actor) as far,
        gateway(CONFIG.format(kind="pupau", url=far.url)) as base,
        client(base) as session,
    ):
        for form in ("query-stream", "execute-stream"):
            path, body, headers = FORMS[form]
            async with session.post(path, json=body, headers=headers) as response:
                assert await read_events(response) == [EVENTS[0], FAILED]
        path, body, _ = FORMS["query"]
        async with session.post(path, json=body) as response:
            assert await response.json() == FAILED["responses"]
        path, body, _ = FORMS["execute"]
        async with session.post(path, json=body) as response:
            assert response.status == 502
            assert (
                "Invalid PDF structure. (InvalidPDFException)" in (await response.json())["message"]
            )
        async with session.get("/metrics") as response:
            text = await response.text()
    for mode in ("query_stream", "execute_stream", "query", "execute"):
        dialect = "pupau" if mode.startswith("query") else "cambrion"
        assert (
            f'gateway_requests_total{{dialect="{dialect}",mode="{mode}",'
            'outcome="upstream_error",pipeline="p"} 1.0' in text
        )
