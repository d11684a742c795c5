"""TLS towards clients: all is as without it, and who speaks it wrongly harms nobody."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import thread_time
from typing import Any, cast

import aiohttp
import pytest

from gateway import app
from gateway.tls import Encrypted
from tests.support.client import read_events
from tests.support.leftovers import nothing_left
from tests.support.raw import answer, request
from tests.support.remote import Peer, Remote, Script, Seen, remote
from tests.support.scripts import EVENTS, OBSERVATION, cambrion_script, frames, pupau_script
from tests.support.timing import PATIENCE_S, ROOM, patience, uncollected, until
from tests.support.tls import Authority, plainly, secret, url, watched

CONFIG = """
server:
  port: 0
  admin: {{port: 0}}
{server}
  tls: {{certificate: live/s.pem, key: live/s.key{tls}}}
transforms: {{client: {{processes: 1}}}}
upstreams:
  far: {{kind: pupau, url: "{url}"}}
  docs: {{kind: cambrion, url: "{url}/v1"}}
pipelines:
  chat: {{upstream: far}}
  doc: {{upstream: docs}}
"""
STREAM = request("/pipelines/chat/queries?sse=true", {"request": "x"})
CALL = request("/v1/pipelines/doc/executeSync", {"text": "x"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one").mkdir()
    (tmp_path / "live").symlink_to("one")
    return tmp_path


@pytest.fixture
def authority(folder: Path) -> Authority:
    made = Authority(folder / "one")
    made.issue("s")
    return made


@asynccontextmanager
async def gateway(
    folder: Path, script: Script, *, server: str = "watch: no", tls: str = ""
) -> AsyncIterator[tuple[Remote, app.Listening]]:
    async with remote(script) as far:
        path = folder / "gateway.yaml"
        lines = "".join(f"  {line.strip()}\n" for line in server.split(","))
        path.write_text(CONFIG.format(url=far.url, server=lines, tls=tls))
        async with watched(path) as there:
            yield far, there


def given_up(caplog: pytest.LogCaptureFixture) -> list[Any]:
    fields = [record.__dict__.get("fields", {}) for record in caplog.records]
    return [each["error"] for each in fields if each.get("outcome") == "client_gone"]


async def failures(there: app.Listening) -> dict[str, float]:
    """How many handshakes have failed, by their reasons."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url(there.admin)}/metrics", headers={"Connection": "close"}) as response,
    ):
        lines = (await response.text()).splitlines()
    return {
        line.split('"')[1]: float(line.split()[-1])
        for line in lines
        if line.startswith("gateway_tls_failed_total{") and not line.endswith(" 0.0")
    }


async def both(seen: Seen, peer: Peer) -> None:
    await (cambrion_script if seen.path.startswith("/v1") else pupau_script)(seen, peer)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_calls_and_streams_are_answered_on_one_kept_connection(
    folder: Path, authority: Authority, version: ssl.TLSVersion
) -> None:
    context = authority.trusting(minimum_version=version, maximum_version=version)
    async with gateway(folder, both) as (far, there):
        connector = aiohttp.TCPConnector(ssl=context, limit=1)
        async with aiohttp.ClientSession(url(there.address, "https"), connector=connector) as one:
            for text in ("x", "y" * 4_000_000, "z"):
                asked = one.post("/v1/pipelines/doc/executeSync", json={"text": text})
                async with asked as response:
                    assert (await response.json())["observation"] == OBSERVATION
                assert json.loads(far.seen[-1].body)["text"] == text
                asked = one.post("/pipelines/chat/queries?sse=true", json={"request": "x"})
                async with asked as response:
                    assert await read_events(response) == EVENTS
            assert len(connector._conns) == 1
        async with secret(there.address, context) as client:
            assert client.tls.selected_alpn_protocol() == "http/1.1"
            assert (
                client.tls.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
            )
        assert await failures(there) == {}


async def test_a_large_answer_arrives_whole_however_slowly_it_is_read(
    folder: Path, authority: Authority
) -> None:
    body = json.dumps({"executionId": "e", "observation": OBSERVATION | {"x": "y" * 3_000_000}})

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.answer(body.encode(), headers=("Connection: close",))

    async with (
        gateway(folder, script) as (far, there),
        nothing_left(url(there.admin), far),
        secret(there.address, authority.trusting()) as client,
    ):
        await client.send(
            request("/v1/pipelines/doc/executeSync", {"text": "x"}, "Connection: close")
        )
        await asyncio.sleep(0.2)
        status, _, got = answer(await client.read_all())
        assert (status, json.loads(got)) == (200, json.loads(body))


class Burst(asyncio.Protocol):
    """Answers the first byte with ``said``, then closes."""

    def __init__(self, said: list[bytes]) -> None:
        self._said = said
        self.took_s = 0.0
        self.turns = 0
        self.transport: asyncio.Transport
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        with uncollected():
            began = thread_time()
            for each in self._said:
                self.transport.write(each)
            self.took_s = thread_time() - began
        assert self.paused
        assert self.transport.get_write_buffer_size() > sum(map(len, self._said)) / 2
        self.transport.close()
        assert self.transport.is_closing()

    def pause_writing(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_writing(self) -> None:
        assert self.paused
        self.paused = False


@pytest.mark.parametrize("end", ["reads on", "half closes", "leaves"])
async def test_a_large_answer_is_encrypted_in_turns_with_all_else_and_arrives_whole(
    authority: Authority, end: str
) -> None:
    said = [bytes((number,)) * (8 << 20) for number in range(4)]
    burst, settled = Burst(said), asyncio.Event()
    here, there = socket.socketpair()
    here.setblocking(False)

    def take() -> bytes:
        with authority.trusting().wrap_socket(there, server_hostname="127.0.0.1") as client:
            client.settimeout(PATIENCE_S)
            client.sendall(b"x")
            if end == "half closes":
                socket.socket.shutdown(client, socket.SHUT_WR)
            pieces = [client.recv(1 << 16)]
            while end != "leaves" and (piece := client.recv(1 << 18)):
                pieces.append(piece)
        return b"".join(pieces)

    encrypted = Encrypted(
        burst,
        authority.serving("s"),
        limit_s=PATIENCE_S,
        failed=lambda _: None,
        settled=lambda *_: settled.set(),
    )
    loop = asyncio.get_running_loop()
    await loop.connect_accepted_socket(lambda: encrypted, here)
    got = await asyncio.to_thread(take)
    assert got == b"".join(said) if end != "leaves" else got
    assert burst.took_s < 0.02 * ROOM  # of the processor; for all of it, it is ten times that
    await until(lambda: here.fileno() < 0 or encrypted.get_write_buffer_size() == 0)


async def test_however_the_bytes_are_cut_and_joined_they_mean_the_same(
    folder: Path, authority: Authority
) -> None:
    received, sending = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = authority.trusting().wrap_bio(received, sending, server_hostname="127.0.0.1")
    async with gateway(folder, both) as (_, there), plainly(there.address) as client:

        async def until_done(step: Callable[[], Any]) -> Any:
            """Take ``step`` as often as it takes, sending a byte at a time."""
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    for byte in sending.read():
                        await client.send(bytes((byte,)))
                    received.write(await client.read())

        async with patience():
            await until_done(tls.do_handshake)
            for cut in (1, len(CALL) // 2):  # records of their own, which arrive together
                tls.write(CALL[:cut])
                tls.write(CALL[cut:])
                assert (await until_done(lambda: tls.read(1 << 16))).startswith(b"HTTP/1.1 200 OK")
            # The last word follows a request within the same bytes.
            tls.write(CALL)
            with pytest.raises(ssl.SSLWantReadError):
                tls.unwrap()
            await client.send(sending.read())
            await client.read_all()


async def flood(seen: Seen, peer: Peer) -> None:
    await peer.open_stream()
    while not seen.gone.is_set():
        await peer.chunk(frames(EVENTS[1:2]) * 200)
        seen.body = b"%d" % (int(seen.body) + 1 if seen.body.isdigit() else 1)


async def test_a_client_that_reads_nothing_holds_back_the_upstream_and_is_dropped(
    folder: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        gateway(folder, flood, server="watch: no, write_timeout_s: 1") as (far, there),
        nothing_left(url(there.admin), far),
        AsyncExitStack() as stack,
    ):
        for _ in range(2):
            client = await stack.enter_async_context(secret(there.address, authority.trusting()))
            await client.send(STREAM)
        await until(lambda: not far.open_connections and len(far.seen) == 2)
    assert given_up(caplog) == ["the client read nothing for 1 s"] * 2


async def test_a_plain_answer_that_nobody_reads_is_given_up(
    folder: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"executionId": "e", "observation": OBSERVATION | {"x": "y" * 20_000_000}})

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.answer(body.encode(), headers=("Connection: close",))

    caplog.set_level(logging.INFO)
    async with (
        gateway(folder, script, server="watch: no, write_timeout_s: 0.4") as (far, there),
        nothing_left(url(there.admin), far),
        secret(there.address, authority.trusting()) as client,
    ):
        await client.send(CALL)
        await until(lambda: given_up(caplog))
        assert given_up(caplog) == ["the client read nothing for 0.4 s"]
        assert len(await client.read_all()) < len(body)


@pytest.mark.parametrize("politely", [True, False])
async def test_a_client_that_leaves_ends_its_stream_at_the_upstream(
    folder: Path, authority: Authority, politely: bool
) -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(frames(EVENTS[:1]))
        await seen.gone.wait()

    async with (
        gateway(folder, script) as (far, there),
        nothing_left(url(there.admin), far),
        secret(there.address, authority.trusting()) as client,
    ):
        await client.send(STREAM)
        await client.read_until(b"LAYER_MESSAGE")
        if politely:
            client._writer.close()
        else:
            client.leave()
        async with patience():
            await far.seen[0].gone.wait()


async def test_only_clients_with_a_certificate_of_the_ca_get_in(
    folder: Path, authority: Authority
) -> None:
    authority.issue("client", "anybody")
    other = Authority(folder / "one", "other")
    other.issue("stranger", "anybody")
    # Whom it trusts is told by the one, what it shows by the other.
    strange = authority.trusting()
    strange.load_cert_chain(folder / "one/stranger.pem", folder / "one/stranger.key")
    async with (
        gateway(folder, both, tls=", client_ca: live/ca.pem") as (_, there),
        secret(there.address, authority.trusting("client")) as client,
    ):
        await client.send(CALL)
        assert (await client.read()).startswith(b"HTTP/1.1 200 OK")
        for context in (authority.trusting(), strange):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(ask, there.address, context)
        await until_counted(there, {"client_certificate": 2.0})


#: The beginning of a client's first word.
HELLO = bytes.fromhex("1603010200010001fc0303")


async def test_what_is_not_tls_is_ended_and_counted_and_leaves_nothing(
    folder: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        gateway(folder, both) as (far, there),
        nothing_left(url(there.admin), far),
    ):
        async with plainly(there.address) as client:
            await client.send(b"GET /v1/pipelines HTTP/1.1\r\nHost: x\r\n\r\n")
            said = await client.read_all()
            assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert b"this port speaks TLS" in said
            assert len(said.partition(b"\r\n\r\n")[2]) == 46
        async with plainly(there.address) as client:
            await client.send(b"\x00\xff nonsense \r\n" * 100)
            await client.read_all()
        async with plainly(there.address) as client:
            await client.send(HELLO)  # and leaves, of which nobody is told
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(ask, there.address, ssl.create_default_context())
        await until_counted(there, {"plain_http": 1.0, "other": 1.0, "refused": 1.0})
    assert "Traceback" not in caplog.text
    assert [r.message for r in caplog.records if r.levelno >= logging.ERROR] == []


async def test_a_handshake_that_does_not_come_to_its_end_is_given_up(
    folder: Path, authority: Authority
) -> None:
    async with (
        gateway(folder, both, server="watch: no, header_timeout_s: 0.3") as (far, there),
        nothing_left(url(there.admin), far),
    ):
        for begun in (b"", HELLO):
            async with plainly(there.address) as client, patience():
                await client.send(begun)
                assert await client.read_all() == b""
        await until_counted(there, {"late": 2.0})


async def until_counted(there: app.Listening, expected: dict[str, float]) -> None:
    """The counts follow what a client sees by a moment. Raises AssertionError."""
    async with patience():
        while sum((await failures(there)).values()) < sum(expected.values()):
            await asyncio.sleep(0.01)
    assert await failures(there) == expected


def ask(address: tuple[str, int], context: ssl.SSLContext) -> bytes:
    """Ask as most clients do, who say goodbye when they do not like what they are shown."""
    with (
        socket.create_connection(address, timeout=PATIENCE_S) as connection,
        context.wrap_socket(connection, server_hostname=address[0]) as client,
    ):
        client.sendall(CALL)
        if not (got := client.recv(1024)):
            raise ConnectionResetError
        return got


async def test_a_new_certificate_is_shown_to_new_connections_and_a_bad_one_to_nobody(
    folder: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def serial(there: app.Listening) -> str:
        async with secret(there.address, authority.trusting()) as client:
            return client.serial

    async with (
        gateway(folder, both, server="watch: yes") as (_, there),
        secret(there.address, authority.trusting()) as kept,
    ):
        first = kept.serial
        assert await serial(there) == first
        # As Kubernetes does it: a folder beside, and a link that is turned.
        (folder / "two").mkdir()
        for name in ("ca.pem", "s.key"):
            (folder / "two" / name).write_bytes((folder / "one" / name).read_bytes())
        authority.issue("t")
        (folder / "two/s.pem").write_bytes((folder / "one/t.pem").read_bytes())
        turn(folder, "two")
        async with patience():
            while "is not the key of the certificate" not in str(refused(caplog)):
                await asyncio.sleep(0.01)
        assert await serial(there) == first
        (folder / "two/s.key").write_bytes((folder / "one/t.key").read_bytes())
        async with patience():
            while (second := await serial(there)) == first:
                await asyncio.sleep(0.02)
        assert second != first
        await kept.send(CALL)
        assert (await kept.read()).startswith(b"HTTP/1.1 200 OK")
        assert kept.serial == first


def turn(folder: Path, to: str) -> None:
    (folder / "new").symlink_to(to)
    (folder / "new").replace(folder / "live")


def refused(caplog: pytest.LogCaptureFixture) -> list[Any]:
    fields = [record.__dict__.get("fields", {}) for record in caplog.records]
    return [each["problems"] for each in fields if "problems" in each]
