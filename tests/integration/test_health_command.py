"""``pipeline-gateway health``: what a probe without curl asks with."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from gateway import probing
from gateway.errors import ConfigError
from gateway.sections import ServerConfig
from tests.support.commands import run
from tests.support.remote import Peer, Seen, remote
from tests.support.running import gateway

NOBODY = "http://127.0.0.1:1"


async def test_a_gateway_lives_while_it_is_not_ready_and_the_reason_is_told() -> None:
    config = (
        f'upstreams: {{api: {{kind: triton, url: "{NOBODY}"}}}}\n'
        "pipelines: {p: {upstream: api}}\n"
    )
    async with gateway(config) as base:
        live = await run("health", "--live", "--url", base)
        ready = await run("health", "--url", f"{base}/")
    assert (live[0], live[2]) == (0, "")
    assert live[1].startswith(f"{base}/healthz: 200")
    assert ready[:2] == (1, "")
    assert ready[2].startswith(f"{base}/readyz: 503: ")
    assert "api" in ready[2]


async def test_where_nobody_listens_it_says_so_in_a_sentence() -> None:
    assert await run("health", "--url", NOBODY) == (
        1, "", f"{NOBODY}/readyz: Connection refused\n",
    )  # fmt: skip


async def test_one_that_does_not_answer_in_time_is_not_well() -> None:
    async def silent(_: Seen, peer: Peer) -> None:
        await peer.reader.read()

    async with remote(silent) as asked:
        code, out, err = await run("health", "--url", asked.url, "--timeout", "0.2")
    assert (code, out, err) == (1, "", f"{asked.url}/readyz: no answer within 0.2 s\n")


async def test_what_speaks_no_http_is_not_well() -> None:
    async def chatty(_: Seen, peer: Peer) -> None:
        await peer.send(b"220 mail\r\n")
        peer.writer.close()

    async with remote(chatty) as asked:
        code, out, err = await run("health", "--url", asked.url)
    assert (code, out) == (1, "")
    assert err == f"{asked.url}/readyz: what answers there does not speak HTTP (BadStatusLine)\n"


async def test_over_tls_the_certificate_must_be_trusted_unless_told_otherwise(
    tmp_path: Path,
) -> None:
    async def well(_: Seen, peer: Peer) -> None:
        await peer.answer(b"ready\n", content_type="text/plain")

    authority = trustme.CA()
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with remote(well, tls) as asked:
        url = ("--url", asked.url.replace("http://", "https://"))
        strange, trusted, insecure, none = await asyncio.gather(
            run("health", *url),
            run("health", *url, "--cacert", str(ca)),
            run("health", *url, "--insecure"),
            run("health", *url, "--cacert", str(tmp_path / "no.pem")),
        )
    assert strange[:2] == (1, "")
    assert "/readyz: its certificate is not accepted: " in strange[2]
    for code, out, err in (trusted, insecure):
        assert (code, err) == (0, "")
        assert out.endswith("/readyz: 200: ready\n")
    assert none[:2] == (1, "")
    assert "no.pem: no certificates can be read from it" in none[2]


@pytest.mark.parametrize(
    ("server", "place"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"host": "0.0.0.0", "port": 80}, "http://127.0.0.1:80"),
        ({"host": "::", "port": 81}, "http://[::1]:81"),
        ({"host": "10.0.0.7"}, "http://10.0.0.7:8080"),
        ({"admin": {"port": 9090}}, "http://127.0.0.1:9090"),
        ({"admin": {"host": "::1", "port": 9090}}, "http://[::1]:9090"),
    ],
)
def test_without_a_url_it_asks_where_the_configuration_has_it_listen(
    server: dict[str, object], place: str
) -> None:
    assert probing.place_of(ServerConfig.model_validate(server)) == place


def test_a_gateway_with_tls_is_asked_over_tls_unless_it_has_an_admin_port(tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("gateway.internal")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    tls = {key: str(tmp_path / "both.pem") for key in ("certificate", "key")}
    served = {"host": "0.0.0.0", "tls": tls}
    assert probing.place_of(ServerConfig.model_validate(served)) == "https://127.0.0.1:8080"
    watched = {**served, "admin": {"port": 9090}}
    assert probing.place_of(ServerConfig.model_validate(watched)) == "http://127.0.0.1:9090"
    closed = {**served, "tls": {**tls, "client_ca": str(tmp_path / "both.pem")}}
    with pytest.raises(ConfigError, match=r"a port to be watched on, server\.admin"):
        probing.place_of(ServerConfig.model_validate(closed))


async def test_a_configuration_that_cannot_be_read_is_the_reason_given(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    assert await run("health", "--config", str(config)) == (
        1, "", f"{config}: there is no such file\n",
    )  # fmt: skip


async def test_a_url_without_a_scheme_is_refused_in_a_sentence() -> None:
    code, out, err = await run("health", "--url", "localhost:8080")
    assert (code, out) == (1, "")
    assert err == "localhost:8080: must begin with http:// or https:// and name a host\n"
