"""The port on which the gateway is watched: what it answers, to whom, and until when."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway import __version__
from gateway.app import Listening
from gateway.errors import ConfigError
from tests.support.raw import request
from tests.support.remote import Peer, Seen, remote
from tests.support.scripts import EVENTS, OBSERVATION, cambrion_script, frames
from tests.support.serving import serving
from tests.support.timing import patience, until
from tests.support.tls import Authority, plainly, secret, url, watched

CONFIG = """
server: {{port: 0, watch: no{server}}}
transforms: {{client: {{processes: 1}}}}
upstreams:
  docs: {{kind: cambrion, url: "{url}/v1", api_key: sesame}}
  far: {{kind: pupau, url: "{url}"}}
pipelines:
  doc: {{upstream: docs}}
  chat: {{upstream: far}}
"""


def written(folder: Path, there: str, server: str = "") -> Path:
    path = folder / "gateway.yaml"
    path.write_text(CONFIG.format(url=there, server=server))
    return path


async def told(base: str, path: str, method: str = "GET") -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, base + path, headers={"Connection": "close"}) as response,
    ):
        return response.status, await response.text()


async def test_what_is_watched_is_on_that_port_and_not_where_clients_are(tmp_path: Path) -> None:
    path = written(tmp_path, "http://127.0.0.1:1", ", admin: {port: 0}")
    async with watched(path) as there:
        base, main = url(there.admin), url(there.address)
        assert (await told(base, "/healthz")) == (200, '{"alive":true}')
        assert (await told(main, "/healthz")) == (200, '{"alive":true}')
        assert (await told(base, "/readyz")) == (await told(main, "/readyz"))
        assert "gateway_config_hash" in (await told(base, "/metrics"))[1]
        status, text = await told(main, "/metrics")
        assert (status, json.loads(text)["message"]) == (404, "there is no GET /metrics")
        assert (await told(main, "/config"))[0] == 404
        status, text = await told(base, "/v1/pipelines")
        assert (status, "/healthz, /readyz, /metrics, /config" in text) == (404, True)
        assert (await told(base, "/metrics", "POST"))[0] == 405
        assert (await told(base, "/metrics", "HEAD")) == (200, "")


async def test_without_it_all_but_the_configuration_is_where_clients_are(tmp_path: Path) -> None:
    async with watched(written(tmp_path, "http://127.0.0.1:1")) as there:
        main = url(there.address)
        assert there.admin is None
        assert (await told(main, "/metrics"))[0] == 200
        assert (await told(main, "/config"))[0] == 404


async def test_the_live_configuration_is_told_with_where_it_came_from(tmp_path: Path) -> None:
    path = written(tmp_path, "http://127.0.0.1:1", ", admin: {port: 0}")
    began = datetime.now(UTC) - timedelta(seconds=1)
    async with watched(path) as there:
        status, text = await told(url(there.admin), "/config")
        found = json.loads(text)
        assert (status, found["version"], found["files"]) == (200, __version__, [str(path)])
        assert began < datetime.fromisoformat(found["live_since"]) < datetime.now(UTC)
        assert found["config"]["upstreams"]["docs"]["api_key"] == "***"
        assert "sesame" not in text
        path.write_text(path.read_text().replace("doc:", "docs:"))
        there.reloader.ask()
        async with patience():
            while "docs" not in (found_then := await _config(there))["config"]["pipelines"]:
                await asyncio.sleep(0.01)
        assert found_then["hash"] != found["hash"]
        assert found_then["live_since"] > found["live_since"]


async def _config(there: Listening) -> Any:
    found: Any = json.loads((await told(url(there.admin), "/config"))[1])
    return found


async def test_an_address_that_is_taken_is_named_with_its_key(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        for workers in ("", ", workers: 2"):
            path = written(tmp_path, "http://h", f", admin: {{port: {port}}}{workers}")
            words = rf"cannot listen on 127.0.0.1:{port} \(server.admin\): "
            if not workers:
                with pytest.raises(ConfigError, match=words):
                    await watched(path).__aenter__()
            else:
                await _does_not_start(path, words.replace("\\", ""))


async def _does_not_start(path: Path, words: str) -> None:
    with pytest.raises(AssertionError) as info:
        async with serving(path):
            pass
    assert words in str(info.value)


async def test_workers_share_it_and_answer_there_until_the_last_stream_has_ended(
    tmp_path: Path,
) -> None:
    go_on = asyncio.Event()

    async def script(seen: Seen, peer: Peer) -> None:
        if seen.path.startswith("/v1"):
            await cambrion_script(seen, peer)
            return
        await peer.open_stream()
        await peer.chunk(frames(EVENTS[:1]))
        await go_on.wait()
        await peer.chunk(frames(EVENTS[-1:]))
        await peer.end()

    authority = Authority(tmp_path)
    authority.issue("s", ends=datetime.now(UTC) + timedelta(days=3))
    server = (
        ", admin: {port: 0}, workers: 2, pre_stop_s: 1, drain_s: 50, "
        "tls: {certificate: s.pem, key: s.key}"
    )
    async with remote(script) as far:
        path = written(tmp_path, far.url, server)
        async with serving(path) as gateway:
            line = await gateway.said("listening")
            address, admin = (line["host"], line["port"]), (line["admin_host"], line["admin_port"])
            soon = await gateway.said("a certificate expires soon")
            assert soon["certificate"] == "server"
            base = url(admin)
            for _ in range(4):
                async with secret(address, authority.trusting()) as caller:
                    await caller.send(request("/v1/pipelines/doc/executeSync", {"text": "x"}))
                    assert json.dumps(OBSERVATION)[:10].encode() in await caller.read()
            text = (await told(base, "/metrics"))[1]
            assert _calls(text) == 4.0
            assert 'gateway_certificate_expiry_timestamp_seconds{certificate="server"}' in text
            # A new certificate is shown by whichever worker is asked.
            authority.issue("s")
            gateway.tell(signal.SIGHUP)
            await gateway.said("configuration loaded")
            serials = set()
            for _ in range(8):
                async with secret(address, authority.trusting()) as caller:
                    serials.add(caller.serial)
            assert len(serials) == 1
            # A worker that takes another's place shows what the others do, whatever lies there now.
            (tmp_path / "s.key").write_text("nothing")
            os.kill(min(gateway.children()), signal.SIGKILL)
            await gateway.said("a worker is started")
            async with patience():
                while "gateway_workers 2.0" not in (await told(base, "/metrics"))[1]:
                    await asyncio.sleep(0.02)
            for _ in range(8):
                async with secret(address, authority.trusting()) as caller:
                    serials.add(caller.serial)
            assert len(serials) == 1
            assert gateway.times("a worker has ended") == 1
            assert gateway.times("a certificate expires soon") == 1
            async with (
                secret(address, authority.trusting()) as caller,
                plainly(admin) as slow,
            ):
                await caller.send(request("/pipelines/chat/queries?sse=true", {"request": "x"}))
                await caller.read_until(b"LAYER_MESSAGE")
                await slow.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")  # and never the rest
                gateway.tell(signal.SIGTERM)
                await gateway.said("stopping")
                for event in ("stopping", "draining"):
                    await gateway.said(event)
                    assert (await told(base, "/healthz"))[0] == 200
                    status, text = await told(base, "/readyz")
                    assert (status, json.loads(text)["stopping"]) == (503, True)
                    assert _calls((await told(base, "/metrics"))[1]) == 4.0
                go_on.set()
                assert b"LAYER_RESPONSE" in await caller.read_all()
            async with patience():
                assert await gateway.ended() == 0
            with pytest.raises(aiohttp.ClientConnectorError):
                await told(base, "/healthz")
        assert gateway.errors == b""
        await until(lambda: not far.open_connections)


def _calls(text: str) -> float:
    return sum(
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("gateway_requests_total{") and 'mode="execute"' in line
    )
