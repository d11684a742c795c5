"""What can go wrong between the gateway and a Triton over HTTP: scripted ones on real sockets."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.errors import Code, GatewayError, UpstreamFailed
from gateway.upstreams.triton import TritonUpstream
from tests.support.remote import Peer, Remote, Seen, remote
from tests.support.running import client, gateway
from tests.support.timing import promised
from tests.support.triton_calls import call, fails, message, run, texts, upstream_at

METADATA = {
    "name": "m 1/2",
    "versions": ["1"],
    "inputs": [{"name": "IN", "datatype": "BYTES", "shape": [1]}],
    "outputs": [{"name": "OUT", "datatype": "BYTES", "shape": [1]}],
}
DECOUPLED = {"model_transaction_policy": {"decoupled": True}}


def element(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


@asynccontextmanager
async def scripted(
    script: Callable[[Seen, Peer], Awaitable[None]] | None = None,
    *,
    metadata: Any = METADATA,
    config: Any = None,
    **options: Any,
) -> AsyncIterator[tuple[TritonUpstream, Remote]]:
    async def serve(seen: Seen, peer: Peer) -> None:
        if seen.path == "/v2/health/ready":
            await peer.answer(b"", "400 Bad Request")
        elif seen.path == "/v2/models/m%201%2F2":
            await peer.answer(json.dumps(metadata).encode())
        elif seen.path.endswith("/config"):
            await peer.answer(json.dumps(config or {}).encode())
        else:
            assert script is not None
            await script(seen, peer)

    async with remote(serve) as server, upstream_at(server.url, **options) as upstream:
        yield upstream, server


def binary(text: str = "hi", **header: Any) -> tuple[bytes, tuple[str, ...]]:
    data = element(text)
    output = {"name": "OUT", "datatype": "BYTES", "shape": [1],
              "parameters": {"binary_data_size": len(data)}, **header}  # fmt: skip
    head = json.dumps({"outputs": [output]}).encode()
    return head + data, (f"Inference-Header-Content-Length: {len(head)}",)


async def answer_hi(seen: Seen, peer: Peer) -> None:
    body, headers = binary()
    await peer.answer(body, content_type="application/octet-stream", headers=headers)


MODEL = "m 1/2"


async def test_over_http_the_request_is_json_and_then_the_bytes() -> None:
    async with scripted(answer_hi) as (upstream, server):
        made = call(MODEL, b"\xff\x00", headers={"x-tenant": "t1", "accept-encoding": "gzip"})
        assert await run(upstream, made) == [message("hi")]
    sent = server.seen[-1]
    assert (sent.method, sent.path) == ("POST", "/v2/models/m%201%2F2/infer")
    length = int(sent.headers["inference-header-content-length"])
    assert json.loads(sent.body[:length]) == {
        "id": "req-1",
        "inputs": [
            {
                "name": "IN",
                "datatype": "BYTES",
                "shape": [1],
                "parameters": {"binary_data_size": 6},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    assert sent.body[length:] == b"\x02\0\0\0\xff\x00"
    assert sent.headers["x-request-id"] == "req-1"
    assert sent.headers["x-tenant"] == "t1"
    assert sent.headers["accept-encoding"] == "identity"


async def test_over_http_a_server_that_is_not_ready_fails_the_probe() -> None:
    async with scripted() as (upstream, _):
        with pytest.raises(UpstreamFailed, match="is up, but not ready"):
            await upstream.probe()


BAD_ANSWERS: list[tuple[bytes, tuple[str, ...], str]] = [
    (b"<html>", (), "header is not JSON as it should be"),
    (b'{"outputs":[{"name":"OUT"}]}', (), "header is not JSON as it should be"),
    (*binary(parameters={}), "output OUT is not in the binary form"),
    (*binary(parameters={"binary_data_size": 99}), "output OUT is not in the binary form"),
    (*binary(parameters={"binary_data_size": -1}), "output OUT is not in the binary form"),
    (binary()[0], ("Inference-Header-Content-Length: 9999",), "does not fit its answer"),
    (binary()[0], ("Inference-Header-Content-Length: x",), "does not fit its answer"),
    (binary()[0], ("Content-Encoding: br",), 'sent content coding "br" without being asked'),
    (gzip.compress(b"\0" * 10**6), ("Content-Encoding: gzip",), 'sent content coding "gzip"'),
    (*binary(shape=[2]), "output OUT: has 1 elements, but its shape [2] asks for 2"),
    (b"x" * 9000, (), "answer_bytes_max (8000 bytes)"),
]


@pytest.mark.parametrize(("body", "headers", "message"), BAD_ANSWERS)
async def test_an_answer_that_makes_no_sense_is_the_upstreams_fault(
    body: bytes, headers: tuple[str, ...], message: str
) -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.answer(body, headers=headers)

    async with scripted(script, answer_bytes_max=8000) as (upstream, _):
        error = await fails(upstream, call(MODEL, text="x"))
    assert error.code is Code.UPSTREAM_INVALID
    assert message in error.message


HTTP_REFUSALS = [
    ("400 Bad Request", '{"error":"bad shape"}', Code.UPSTREAM_REJECTED, "bad shape"),
    ("401 Unauthorized", "{}", Code.UPSTREAM_FAILED, "refused the gateway (answered 401)"),
    ("404 Not Found", '{"error":"unknown"}', Code.UPSTREAM_FAILED, "has no model m 1/2 (unknown)"),
    ("429 Too Many", "<html>", Code.UPSTREAM_BUSY, "answered 429"),
    ("500 Broken", '{"error":"the model broke"}', Code.UPSTREAM_FAILED, "the model broke"),
    ("500 Broken", "[]", Code.UPSTREAM_FAILED, "answered 500"),
    ("501 No", '{"error":"decoupled"}', Code.UPSTREAM_FAILED, "decoupled"),
    ("503 Busy", '{"error":"Exceeds maximum queue size"}', Code.UPSTREAM_BUSY, "queue size"),
    ("503 Gone", "<html>", Code.UPSTREAM_FAILED, "answered 503"),
    ("504 Late", "", Code.UPSTREAM_TIMEOUT, "answered 504"),
    ("302 Found", "", Code.UPSTREAM_FAILED, "answered 302"),
]


@pytest.mark.parametrize(("status", "body", "code", "message"), HTTP_REFUSALS)
async def test_each_refusal_over_http_has_its_meaning(
    status: str, body: str, code: Code, message: str
) -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.answer(body.encode(), status, headers=("Location: /elsewhere",))

    async with scripted(script) as (upstream, server):
        error = await fails(upstream, call(MODEL, text="x"))
    assert error.code is code
    assert message in error.message
    assert not any("elsewhere" in seen.path for seen in server.seen)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([], "cannot be read: Expected `object`"),
        ({"name": "m 1/2", "inputs": 5}, "cannot be read: Expected `array`"),
    ],
)
async def test_a_description_that_makes_no_sense_is_the_upstreams_fault(
    metadata: Any, message: str
) -> None:
    async with scripted(metadata=metadata) as (upstream, _):
        error = await fails(upstream, call(MODEL, text="x"))
    assert error.code is Code.UPSTREAM_INVALID
    assert f"its description of model m 1/2 {message}" in error.message


async def test_a_description_that_is_no_json_is_the_upstreams_fault() -> None:
    async def serve(seen: Seen, peer: Peer) -> None:
        await peer.answer(b"<html>")

    async with remote(serve) as server, upstream_at(server.url) as upstream:
        error = await fails(upstream, call(MODEL, text="x"))
    assert error.code is Code.UPSTREAM_INVALID
    assert "its answer is not JSON" in error.message


@pytest.mark.parametrize("what", ["description", "refusal", "readiness"])
async def test_an_endless_answer_without_outputs_is_cut_at_its_own_bound(what: str) -> None:
    long = b" " * (4 * 1024 * 1024 + 1)

    async def serve(seen: Seen, peer: Peer) -> None:
        if seen.path.endswith("/generate_stream"):
            await peer.answer(long, "500 Broken")
        elif what != "refusal":
            await peer.answer(long)
        else:
            described = {} if seen.path.endswith("/config") else METADATA
            await peer.answer(json.dumps({**described, **DECOUPLED}).encode())

    async with remote(serve) as server, upstream_at(server.url, answer_bytes_max=100) as upstream:
        if what == "readiness":
            with pytest.raises(UpstreamFailed) as caught:
                await upstream.probe()
            error: GatewayError = caught.value
        else:
            error = await fails(upstream, call(MODEL, text="x"))
    assert error.code is Code.UPSTREAM_INVALID
    assert error.message.endswith(
        ": its answer is longer than 4194304 bytes, though it holds no outputs"
    )


async def test_a_host_name_that_does_not_resolve_is_told_to_the_client() -> None:
    config = """
    upstreams:
      triton: {kind: triton, url: "http://nowhere.invalid:8000", required: false}
    pipelines:
      echo: {upstream: triton}
    """
    async with (
        gateway(config) as base,
        client(base) as session,
        session.post("/v1/pipelines/echo/executeSync", json={"text": "x"}) as response,
    ):
        answer = await response.json()
    assert response.status == 502
    assert answer["message"] == "upstream triton: its host name does not resolve"


async def test_a_connection_that_breaks_is_named() -> None:
    async def closes(seen: Seen, peer: Peer) -> None:
        peer.writer.close()

    async def cuts(seen: Seen, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        peer.cut()

    async def babbles(seen: Seen, peer: Peer) -> None:
        await peer.send(b"220 smtp ready\r\n\r\n")

    for script, said, code in (
        (closes, "closed the connection before it answered", Code.UPSTREAM_FAILED),
        (cuts, "broke off in mid-answer", Code.UPSTREAM_FAILED),
        (babbles, "its answer is not HTTP", Code.UPSTREAM_INVALID),
    ):
        async with scripted(script) as (upstream, _):
            error = await fails(upstream, call(MODEL, text="x"))
        assert error.code is code
        assert error.message == f"upstream gpu, model m 1/2: {said}"


def stream_of(*events: bytes, end: bool = True) -> Callable[[Seen, Peer], Awaitable[None]]:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        for event in events:
            await peer.chunk(event)
        if end:
            await peer.end()
        else:
            peer.cut()

    return script


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"OUT": text, "model_name": "m"}).encode() + b"\n\n"


BAD_STREAMS: list[tuple[Callable[[Seen, Peer], Awaitable[None]], Code, str]] = [
    (stream_of(event("a"), b'data: {"OUT'), Code.UPSTREAM_INVALID, "cut in mid-event"),
    (stream_of(event("a"), end=False), Code.UPSTREAM_FAILED, "broke off in mid-answer"),
    (stream_of(b"data: <html>\n\n"), Code.UPSTREAM_INVALID, "an event that is not JSON"),
    (stream_of(b"data: []\n\n"), Code.UPSTREAM_INVALID, "an event that is not an object"),
    (stream_of(b'data: {"OUT": 5}\n\n'), Code.UPSTREAM_INVALID, "output OUT: expected BYTES"),
    (stream_of(b'data: {"error": "broke"}\n\n'), Code.UPSTREAM_FAILED, "m 1/2: broke"),
    (stream_of(b"data: " + b"x" * 5000), Code.UPSTREAM_INVALID, "4096"),
]


@pytest.mark.parametrize(("script", "code", "message"), BAD_STREAMS)
async def test_a_stream_that_makes_no_sense_is_the_upstreams_fault(
    script: Callable[[Seen, Peer], Awaitable[None]], code: Code, message: str
) -> None:
    async with scripted(script, config=DECOUPLED, event_bytes_max=4096) as (upstream, _):
        error = await fails(upstream, call(MODEL, text="x"))
    assert error.code is code
    assert message in error.message


async def test_an_answer_that_is_no_stream_is_the_upstreams_fault() -> None:
    async def refuses(seen: Seen, peer: Peer) -> None:
        await peer.answer(b'{"error":"out of memory"}', "500 Broken")

    for script, said in ((answer_hi, "its answer is no event stream"), (refuses, "out of memory")):
        async with scripted(script, config=DECOUPLED) as (upstream, _):
            assert said in (await fails(upstream, call(MODEL, text="x"))).message


async def test_what_a_stream_says_beside_the_models_outputs_is_left_out() -> None:
    script = stream_of(b": ping\n\n", event("a"), b'data: {"model_name": "m"}\n\n', event("b"))
    async with scripted(script, config=DECOUPLED) as (upstream, server):
        assert texts(await run(upstream, call(MODEL, text="x"))) == ["a", "b", ""]
    assert json.loads(server.seen[-1].body) == {"IN": ["x"], "id": "req-1"}


@pytest.mark.parametrize(
    ("declared", "value", "carried"),
    [
        ([-1], [1, 2, 3], True),
        ([-1, 2], [[1, 2], [3, 4]], True),
        ([2, 2], [[1, 2], [3, 4]], True),
        ([-1, -1], [[1, 2]], True),
        ([-1, -1], [[1], [2]], False),
    ],
)
async def test_over_http_a_stream_carries_the_shapes_that_triton_guesses_right(
    declared: list[int], value: Any, carried: bool
) -> None:
    metadata = {**METADATA, "inputs": [{"name": "IN", "datatype": "INT32", "shape": declared}]}
    async with scripted(stream_of(), metadata=metadata, config=DECOUPLED) as (upstream, server):
        made = call(MODEL, inputs={"IN": value})
        if carried:
            assert texts(await run(upstream, made)) == [""]
            flat = [item for row in value for item in (row if isinstance(row, list) else [row])]
            assert json.loads(server.seen[-1].body)["IN"] == flat
        else:
            assert "grpc://" in (await fails(upstream, made)).message


async def test_closing_a_stream_over_http_closes_its_connection() -> None:
    async def endless(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(event("a"))
        await seen.gone.wait()

    async with scripted(endless, config=DECOUPLED) as (upstream, server):
        events = upstream.stream(call(MODEL, text="x"))
        await anext(events)
        await events.aclose()
        async with promised(1):
            await server.seen[-1].gone.wait()
