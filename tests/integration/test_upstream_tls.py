"""TLS towards upstreams: whom the gateway trusts, what it shows, what it says where it fails."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.app import Listening
from gateway.certificates import upstream_context
from gateway.errors import UpstreamFailed
from gateway.tls import Encrypted
from gateway.upstreams.triton import TritonUpstream
from gateway.values import Pem
from tests.support.client import read_events
from tests.support.remote import Peer, Remote, Script, Seen, remote
from tests.support.scripts import EVENTS, OBSERVATION, cambrion_script, pupau_script
from tests.support.timing import patience
from tests.support.tls import Authority, url, watched

OLD = {"begins": datetime(2020, 1, 1, tzinfo=UTC), "ends": datetime(2020, 2, 1, tzinfo=UTC)}
#: What the server shows, whom it lets in, what the gateway is configured with, what it says then.
FAILURES: dict[str, tuple[str, str, str, str]] = {
    "expired": ("old", "", "ca: ca.pem", "its certificate has expired"),
    "of nobody known": (
        "s", "", "server_name: 127.0.0.1",
        "its certificate comes from a CA that is not trusted (tls.ca)",
    ),
    "of another": (
        "s", "", "ca: other.pem", "its certificate comes from a CA that is not trusted (tls.ca)",
    ),
    "another name": (
        "s", "", "ca: ca.pem, server_name: api.example",
        "its certificate is for another name (tls.server_name)",
    ),
    "another address": (
        "named", "", "ca: ca.pem", "its certificate is for another name (tls.server_name)",
    ),
    "none shown": (
        "s", "ca", "ca: ca.pem", "it demands a client certificate (tls.certificate)",
    ),
    "a strange one shown": (
        "s", "ca", "ca: ca.pem, certificate: stranger.pem, key: stranger.key",
        "it does not trust the CA of the gateway's certificate (tls.certificate)",
    ),
    "no TLS": ("", "", "ca: ca.pem", "does not speak TLS there"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ca, other = Authority(tmp_path), Authority(tmp_path, "other")
    ca.issue("s")
    ca.issue("named", "api.example")
    ca.issue("old", **OLD)
    ca.issue("own", "gateway")
    other.issue("stranger", "gateway")
    return tmp_path


def serving(folder: Path, shown: str, client_ca: str) -> ssl.SSLContext | None:
    """What a server of this kind speaks TLS with; ``None``: it does not."""
    if not shown:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{shown}.pem", folder / f"{shown}.key")
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / f"{client_ca}.pem")
    return context


async def both(seen: Seen, peer: Peer) -> None:
    await (cambrion_script if seen.path.startswith("/v1") else pupau_script)(seen, peer)


@asynccontextmanager
async def gateway(folder: Path, upstreams: dict[str, str]) -> AsyncIterator[Listening]:
    """``upstreams``: lines of YAML by name; each has a pipeline of its name."""
    path = folder / "gateway.yaml"
    lines = "".join(f"  {name}: {section}\n" for name, section in upstreams.items())
    pipelines = "".join(f"  {name}: {{upstream: {name}}}\n" for name in upstreams)
    path.write_text(
        "server: {port: 0, admin: {port: 0}, watch: no}\n"
        f"transforms: {{client: {{processes: 1}}}}\nupstreams:\n{lines}pipelines:\n{pipelines}"
    )
    async with watched(path) as there:
        yield there


@asynccontextmanager
async def speaking(script: Script, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A server that says, as asyncio's does not, why it speaks no TLS with whoever comes."""
    far = Remote(script)
    loop = asyncio.get_running_loop()

    def made() -> asyncio.Protocol:
        reader = asyncio.StreamReader()
        inner = asyncio.StreamReaderProtocol(reader, far._serve)
        return Encrypted(inner, context, limit_s=60, failed=lambda _: None, settled=lambda *_: None)

    async with await loop.create_server(made, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for task in far._tasks:
            task.cancel()


@asynccontextmanager
async def served(
    folder: Path, shown: str, client_ca: str, script: Script, version: ssl.TLSVersion | None = None
) -> AsyncIterator[int]:
    """A server on the port that this yields; one without TLS answers that it does not speak it."""
    context = serving(folder, shown, client_ca)
    if context is not None:
        if version is not None:
            context.maximum_version = version
        async with speaking(script, context) as port:
            yield port
        return

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def section(port: int, kind: str, tls: str) -> str:
    base = f"https://127.0.0.1:{port}" + ("/v1" if kind == "cambrion" else "")
    return f'{{kind: {kind}, url: "{base}", retries: {{retries_max: 0}}, tls: {{{tls}}}}}'


async def get(there: Listening, path: str) -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.get(url(there.admin) + path) as response,
    ):
        return json.loads(text) if (text := await response.text()).startswith("{") else text


async def call(there: Listening, name: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(url(there.address)) as session,
        session.post(f"/v1/pipelines/{name}/executeSync", json={"text": "x"}) as response,
    ):
        return response.status, await response.json()


async def test_each_side_knows_the_other_by_a_ca_of_ones_own(folder: Path) -> None:
    tls = "ca: ca.pem, certificate: own.pem, key: own.key, server_name: api.example"
    async with remote(both, serving(folder, "named", "ca")) as far:
        sections = {kind: section(far.port, kind, tls) for kind in ("cambrion", "pupau")}
        async with gateway(folder, sections) as there:
            assert (await call(there, "cambrion"))[1]["observation"] == OBSERVATION
            async with (
                aiohttp.ClientSession(url(there.address)) as session,
                session.post("/pipelines/pupau/queries?sse=true", json={"request": "x"}) as answer,
            ):
                assert await read_events(answer) == EVENTS
            assert (await get(there, "/readyz"))["ready"] is True
            text = await get(there, "/metrics")
            for name in ("cambrion", "pupau"):
                label = f'expiry_timestamp_seconds{{certificate="upstreams.{name}"}} 3.25'
                assert label in text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_what_is_wrong_is_said_to_the_caller_and_by_readyz(
    folder: Path, version: ssl.TLSVersion
) -> None:
    async with AsyncExitStack() as stack:
        sections = {}
        for n, (shown, client_ca, tls, _) in enumerate(FAILURES.values()):
            server = served(folder, shown, client_ca, both, version)
            sections[f"u{n}"] = section(await stack.enter_async_context(server), "cambrion", tls)
        there = await stack.enter_async_context(gateway(folder, sections))
        failing = (await get(there, "/readyz"))["failing"]
        for n, (name, (*_, words)) in enumerate(FAILURES.items()):
            if version is ssl.TLSVersion.TLSv1_2 and name == "none shown":
                words = (  # noqa: PLW2901
                    "it agrees to no way of TLS, or demands a client certificate (tls.certificate)"
                )
            status, answer = await call(there, f"u{n}")
            assert (status, answer["code"]) == (502, "upstream_unreachable"), name
            assert answer["message"] == f"upstream u{n}: {words}", name
            assert failing[f"u{n}"] == answer["message"]


async def test_a_renewed_certificate_and_a_changed_ca_are_used_though_no_key_changed(
    folder: Path,
) -> None:
    shown: list[str] = []

    async def script(seen: Seen, peer: Peer) -> None:
        shown.append(peer.writer.get_extra_info("peercert")["serialNumber"])
        await cambrion_script(seen, peer)

    async with AsyncExitStack() as stack:
        far = await stack.enter_async_context(remote(script, serving(folder, "s", "ca")))
        tls = "ca: trusted.pem, certificate: shown.pem, key: shown.key"
        put(folder, trusted="ca", shown="own")
        there = await stack.enter_async_context(
            gateway(folder, {"u": section(far.port, "cambrion", tls)})
        )
        assert (await call(there, "u"))[0] == 200
        put(folder, shown="named")
        await reloaded(there)
        assert (await call(there, "u"))[0] == 200
        assert len(set(shown)) == 2
        put(folder, trusted="other")
        await reloaded(there)
        status, answer = await call(there, "u")
        assert (status, "a CA that is not trusted" in answer["message"]) == (502, True)


def put(folder: Path, trusted: str = "", shown: str = "") -> None:
    if trusted:
        (folder / "trusted.pem").write_bytes((folder / f"{trusted}.pem").read_bytes())
    if shown:
        for suffix in ("pem", "key"):
            (folder / f"shown.{suffix}").write_bytes((folder / f"{shown}.{suffix}").read_bytes())


async def reloaded(there: Listening) -> None:
    before = (await get(there, "/config"))["hash"]
    there.reloader.ask()
    async with patience():
        while (await get(there, "/config"))["hash"] == before:
            await asyncio.sleep(0.01)


# Triton


class _Ready(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A server that is ready, and nothing else."""

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802  its name
        return service_pb2.ServerReadyResponse(ready=True)


@asynccontextmanager
async def grpcs(folder: Path, shown: str, client_ca: str) -> AsyncIterator[str]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Ready(), server)
    if shown:
        pair = ((folder / f"{shown}.key").read_bytes(), (folder / f"{shown}.pem").read_bytes())
        ca = (folder / f"{client_ca}.pem").read_bytes() if client_ca else None
        credentials = grpc.ssl_server_credentials([pair], ca, bool(client_ca))
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"grpcs://127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def _ready(seen: Seen, peer: Peer) -> None:
    await peer.answer(b"")


@asynccontextmanager
async def https(folder: Path, shown: str, client_ca: str) -> AsyncIterator[str]:
    async with served(folder, shown, client_ca, _ready) as port:
        yield f"https://127.0.0.1:{port}"


WAYS: dict[str, Callable[..., Any]] = {"grpcs": grpcs, "https": https}


@asynccontextmanager
async def triton(folder: Path, there: str, tls: str) -> AsyncIterator[TritonUpstream]:
    given = dict(part.split(": ") for part in tls.split(", "))
    ca, certificate, key = (
        Pem.model_validate(str(folder / given[name])) if name in given else None
        for name in ("ca", "certificate", "key")
    )
    protocol = "h2" if there.startswith("grpcs") else "http/1.1"
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        made = TritonUpstream(
            "gpu",
            there,
            session=session,
            tls=upstream_context(ca, certificate, key, [protocol]),
            server_name=given.get("server_name"),
            answer_bytes_max=1 << 20,
            event_bytes_max=1 << 20,
        )
        try:
            yield made
        finally:
            await made.close()


@pytest.mark.parametrize("way", WAYS)
async def test_a_triton_is_spoken_to_over_tls_of_both_kinds(folder: Path, way: str) -> None:
    tls = "ca: ca.pem, certificate: own.pem, key: own.key, server_name: api.example"
    async with WAYS[way](folder, "named", "ca") as there, triton(folder, there, tls) as gpu:
        await gpu.probe()


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("way", WAYS)
async def test_of_a_triton_too_it_is_said_what_is_wrong(folder: Path, way: str, name: str) -> None:
    shown, client_ca, tls, words = FAILURES[name]
    async with WAYS[way](folder, shown, client_ca) as there, triton(folder, there, tls) as gpu:
        with pytest.raises(UpstreamFailed) as info:
            await gpu.probe()
        if way == "grpcs" and client_ca:  # gRPC's own server does not say it
            words = "closed the connection as soon as TLS was agreed on"
        assert info.value.message == f"upstream gpu: {words}"
