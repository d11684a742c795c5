"""What can go wrong between the gateway and a Triton over gRPC: scripted ones on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.errors import Code, ConfigError, Outcome, UpstreamFailed, UpstreamTimeout
from gateway.upstreams.triton import TritonUpstream
from tests.support.remote import Peer, Seen, remote
from tests.support.timing import patience, promised, until
from tests.support.triton_calls import call, fails, message, run, texts, upstream_at


def element(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A Triton of one model that does what a test says. ``calls`` counts what it is asked."""

    def __init__(
        self,
        *,
        fail: tuple[grpc.StatusCode, str] | None = None,
        ready: bool = True,
        decoupled: bool = False,
        respond: Callable[[Any], Any] | None = None,
    ) -> None:
        self.fail = fail
        self.ready = ready
        self.decoupled = decoupled
        self.respond = respond
        self.calls: dict[str, int] = {}
        self.seen: list[tuple[Any, dict[str, str]]] = []

    def _count(self, what: str) -> None:
        self.calls[what] = self.calls.get(what, 0) + 1

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=self.ready)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._count("metadata")
        await asyncio.sleep(0.05)
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        return service_pb2.ModelMetadataResponse(
            name=request.name,
            inputs=[tensor(name="IN", datatype="BYTES", shape=[1])],
            outputs=[tensor(name="OUT", datatype="BYTES", shape=[1])],
        )

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._count("config")
        answer = service_pb2.ModelConfigResponse()
        answer.config.model_transaction_policy.decoupled = self.decoupled
        return answer

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._count("infer")
        self.seen.append((request, dict(context.invocation_metadata())))
        if self.fail is not None:
            await context.abort(*self.fail)
        return answer() if self.respond is None else self.respond(request)

    async def ModelStreamInfer(self, requests: Any, context: Any) -> Any:  # noqa: N802
        async for request in requests:
            self.seen.append((request, dict(context.invocation_metadata())))
            yield service_pb2.ModelStreamInferResponse(infer_response=answer())
            if self.fail is not None:
                await context.abort(*self.fail)


def answer(text: str = "hi") -> Any:
    response = service_pb2.ModelInferResponse(raw_output_contents=[element(text)])
    response.outputs.add(name="OUT", datatype="BYTES", shape=[1])
    return response


@asynccontextmanager
async def serving(servicer: Servicer, port: int = 0) -> AsyncIterator[str]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_many_first_calls_ask_for_the_model_once() -> None:
    servicer = Servicer()
    async with serving(servicer) as url, upstream_at(url) as upstream:
        calls = (run(upstream, call("m", text="x")) for _ in range(20))
        assert await asyncio.gather(*calls) == [[message("hi")]] * 20
        await run(upstream, call("m", text="x"))
    assert servicer.calls == {"metadata": 1, "config": 1, "infer": 21}


async def test_a_first_call_that_is_cancelled_leaves_the_asking_to_the_next() -> None:
    servicer = Servicer()
    async with serving(servicer) as url, upstream_at(url) as upstream:
        first = asyncio.create_task(run(upstream, call("m", text="x")))
        second = asyncio.create_task(run(upstream, call("m", text="x")))
        await until(lambda: servicer.calls)  # which takes a moment to be answered
        first.cancel()
        assert await second == [message("hi")]
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_the_request_id_and_the_headers_let_through_arrive() -> None:
    servicer = Servicer()
    headers = {"x-tenant": "t1", "x-bad": "line\nbreak", "grpc-timeout": "1n", "x-raw-bin": "x"}
    made = call("m", text="x", headers=headers)
    async with serving(servicer) as url, upstream_at(url) as upstream:
        await run(upstream, made)
    ((request, metadata),) = servicer.seen
    assert request.id == "req-1"
    assert metadata["x-request-id"] == "req-1"
    assert metadata["x-tenant"] == "t1"
    assert not {"x-bad", "grpc-timeout", "x-raw-bin"} & set(metadata)


REFUSALS = [
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "no slots", Code.UPSTREAM_BUSY, 503),
    (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size", Code.UPSTREAM_BUSY, 503),
    (grpc.StatusCode.UNAVAILABLE, "server is stopping", Code.UPSTREAM_FAILED, 502),
    (grpc.StatusCode.INVALID_ARGUMENT, "[request id: r] bad shape", Code.UPSTREAM_REJECTED, 400),
    (grpc.StatusCode.UNAUTHENTICATED, "no token", Code.UPSTREAM_FAILED, 502),
    (grpc.StatusCode.PERMISSION_DENIED, "not you", Code.UPSTREAM_FAILED, 502),
    (grpc.StatusCode.UNIMPLEMENTED, "decoupled", Code.UPSTREAM_FAILED, 502),
    (grpc.StatusCode.INTERNAL, "", Code.UPSTREAM_FAILED, 502),
    (grpc.StatusCode.CANCELLED, "", Code.UPSTREAM_FAILED, 502),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "", Code.UPSTREAM_TIMEOUT, 504),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "waited too long", Code.UPSTREAM_TIMEOUT, 504),
]


@pytest.mark.parametrize(("status", "said", "code", "http_status"), REFUSALS)
async def test_each_refusal_over_grpc_has_its_meaning(
    status: grpc.StatusCode, said: str, code: Code, http_status: int
) -> None:
    async with serving(Servicer(fail=(status, said))) as url, upstream_at(url) as upstream:
        error = await fails(upstream, call("m", text="x"))
    assert (error.code, error.status) == (code, http_status)
    assert error.message.startswith("upstream gpu, model m: ")
    assert said.removeprefix("[request id: r] ") in error.message
    assert "request id" not in error.message
    assert "within" not in error.message, "nothing was waited for in vain here"


async def test_a_refusal_that_ends_a_stream_is_no_end() -> None:
    servicer = Servicer(decoupled=True, fail=(grpc.StatusCode.INTERNAL, "out of memory"))
    async with serving(servicer) as url, upstream_at(url) as upstream:
        error = await fails(upstream, call("m", text="x"))
    assert error.message == "upstream gpu, model m: out of memory"


async def test_a_stream_that_ends_without_saying_so_is_at_its_end() -> None:
    async with serving(Servicer(decoupled=True)) as url, upstream_at(url) as upstream:
        assert texts(await run(upstream, call("m", text="x"))) == ["hi", ""]


async def test_tensors_in_another_form_are_refused() -> None:
    def respond(_: Any) -> Any:
        response = answer()
        del response.raw_output_contents[:]
        return response

    async with serving(Servicer(respond=respond)) as url, upstream_at(url) as upstream:
        error = await fails(upstream, call("m", text="x"))
    assert error.code is Code.UPSTREAM_INVALID
    assert "not in the binary form" in error.message


@asynccontextmanager
async def relay(url: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A way to a server that can be cut: its URL, and what cuts it."""
    port = int(url.rpartition(":")[2])
    writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, forth))
        await asyncio.gather(copy(reader, forth), copy(back, writer), return_exceptions=True)

    def cut() -> None:
        for writer in writers:
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"grpc://127.0.0.1:{server.sockets[0].getsockname()[1]}", cut
    finally:
        server.close()
        cut()


@pytest.mark.parametrize("decoupled", [False, True])
async def test_a_connection_that_breaks_in_mid_call_is_named(decoupled: bool) -> None:
    class Slow(Servicer):
        async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
            self._count("infer")
            await asyncio.sleep(30)

        async def ModelStreamInfer(self, requests: Any, context: Any) -> Any:  # noqa: N802
            yield service_pb2.ModelStreamInferResponse(infer_response=answer())
            self._count("infer")
            await asyncio.sleep(30)

    servicer = Slow(decoupled=decoupled)
    async with serving(servicer) as url, relay(url) as (way, cut), upstream_at(way) as upstream:
        running = asyncio.create_task(fails(upstream, call("m", text="x")))
        await until(lambda: servicer.calls.get("infer"))
        cut()
        error = await running
    assert (error.code, error.status) == (Code.UPSTREAM_FAILED, 502)
    assert error.message == "upstream gpu, model m: broke off in mid-answer"


async def test_a_triton_that_is_not_ready_fails_the_probe() -> None:
    async with serving(Servicer(ready=False)) as url, upstream_at(url) as upstream:
        with pytest.raises(UpstreamFailed, match="upstream gpu: is up, but not ready"):
            await upstream.probe()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
async def test_a_refused_connection_fails_at_once(scheme: str, free_port: int) -> None:
    async with upstream_at(f"{scheme}://127.0.0.1:{free_port}") as upstream:
        for _ in range(3):
            error = await fails(upstream, call("m", text="x"))
            assert (error.code, error.status) == (Code.UPSTREAM_UNREACHABLE, 502)
            assert error.message == "upstream gpu: cannot be reached (Connection refused)"
        with pytest.raises(UpstreamFailed, match="cannot be reached"):
            await upstream.probe()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
async def test_a_name_that_does_not_resolve_is_said_to_be_one(scheme: str) -> None:
    async with upstream_at(f"{scheme}://nowhere.invalid:1") as upstream:
        error = await fails(upstream, call("m", text="x"))
    assert (error.code, error.status) == (Code.UPSTREAM_UNREACHABLE, 502)
    assert error.message == "upstream gpu: its host name does not resolve"


async def test_a_triton_that_comes_back_is_found_again(free_port: int) -> None:
    async with upstream_at(f"grpc://127.0.0.1:{free_port}") as upstream:
        assert (await fails(upstream, call("m", text="x"))).code is Code.UPSTREAM_UNREACHABLE
        async with serving(Servicer(), free_port), promised(5):
            while not await _answers(upstream):
                await asyncio.sleep(0.05)
        await fails(upstream, call("m", text="x"))
        async with serving(Servicer(), free_port), promised(5):
            while not await _answers(upstream):
                await asyncio.sleep(0.05)


async def _answers(upstream: TritonUpstream) -> bool:
    try:
        return await run(upstream, call("m", text="x")) == [message("hi")]
    except UpstreamFailed:
        return False


async def test_a_port_that_never_speaks_is_given_up_after_connect_s() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        async with upstream_at(url, connect_s=0.2) as upstream:
            error = await fails(upstream, call("m", text="x"))
            with pytest.raises(UpstreamTimeout):
                await upstream.probe()
    assert isinstance(error, UpstreamTimeout)
    assert error.outcome is Outcome.TIMEOUT
    assert error.message.endswith("no connection within 0.2 s (connect_s)")


async def test_over_http_a_port_that_takes_no_connection_is_given_up_after_connect_s() -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # what waits to be accepted; the next one is left without an answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        async with upstream_at(url, connect_s=0.2) as upstream:
            error = await fails(upstream, call("m", text="x"))
    assert isinstance(error, UpstreamTimeout)
    assert error.message.endswith("no connection within 0.2 s (connect_s)")


async def test_a_triton_that_describes_no_model_is_given_up_after_a_while() -> None:
    class Mute(Servicer):
        async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
            await asyncio.sleep(30)

    async def mute(seen: Seen, peer: Peer) -> None:
        await seen.gone.wait()

    async with serving(Mute()) as grpc_url, remote(mute) as server:
        for url in (grpc_url, server.url):
            async with upstream_at(url, control_s=0.2) as upstream:
                error = await fails(upstream, call("m", text="x"))
            assert isinstance(error, UpstreamTimeout)
            assert error.message == "upstream gpu, model m: sent nothing within 0.2 s"


async def test_a_stream_to_a_triton_that_has_gone_says_so(free_port: int) -> None:
    async with upstream_at(f"grpc://127.0.0.1:{free_port}") as upstream:
        async with serving(Servicer(decoupled=True), free_port):
            assert texts(await run(upstream, call("m", text="x"))) == ["hi", ""]
        refused = "upstream gpu: cannot be reached (Connection refused)"
        async with patience():  # the first may still meet the end of the connection that was
            while (await fails(upstream, call("m", text="x"))).message != refused:
                pass
        for _ in range(3):
            assert (await fails(upstream, call("m", text="x"))).message == refused


def test_without_its_extra_http_works_and_grpc_says_what_it_needs() -> None:
    program = """
import sys
sys.modules["tritonclient"] = None
from gateway.upstreams.triton import TritonUpstream
TritonUpstream("gpu", "http://host", session=object(), answer_bytes_max=1, event_bytes_max=1)
try:
    TritonUpstream("gpu", "grpc://host", answer_bytes_max=1, event_bytes_max=1)
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.startswith("ConfigError upstreams.gpu: grpc:// needs the extra 'triton'")


async def test_tls_with_a_triton_that_has_none_fails() -> None:
    async with serving(Servicer()) as url, upstream_at(url.replace("grpc", "grpcs")) as upstream:
        error = await fails(upstream, call("m", text="x"))
    assert error.code is Code.UPSTREAM_UNREACHABLE


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host", "must be grpc://, grpcs://, http:// or https:// and a host"),
        ("grpc:///path", "and a host"),
        ("host:8001", "and a host"),
        ("grpc://host:port", 'upstreams.gpu.url: "grpc://host:port"'),
        ("grpc://host/path", "gRPC has no path"),
        ("http://me:secret@host", "must hold no user"),
        ("http://host?a=b", "no query"),
        ("http://host", "needs an HTTP session"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TritonUpstream("gpu", url, answer_bytes_max=1, event_bytes_max=1)
    assert message in str(caught.value)


@pytest.mark.parametrize("url", ["grpc://localhost", "grpcs://[::1]:9", "grpc://host:1/"])
async def test_a_url_that_can_be_used_is_taken(url: str) -> None:
    async with upstream_at(url) as upstream:
        assert upstream.kind == "triton"


@pytest.fixture
def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
