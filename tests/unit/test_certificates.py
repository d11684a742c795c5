"""What is agreed on in a handshake, towards clients and towards upstreams."""

from __future__ import annotations

import ssl
import warnings
from pathlib import Path

import pytest

from gateway import certificates
from gateway.config import load
from tests.support.tls import Authority

CONFIG = """
server: {tls: {certificate: s.pem, key: s.key, client_ca: ca.pem}}
upstreams: {u: {kind: cambrion, url: "https://h/v1", tls: {ca: ca.pem}}}
pipelines: {p: {upstream: u}}
"""
OLD = [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1]
NEW = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The gateway's own towards clients, and towards an upstream."""
    authority = Authority(tmp_path)
    authority.issue("s", "h")
    (tmp_path / "g.yaml").write_text(CONFIG)
    config = load(tmp_path / "g.yaml", {})
    tls = config.server.tls
    assert tls is not None
    return (
        certificates.server_context(tls.certificate, tls.key, tls.client_ca),
        certificates.upstream_context(config.upstreams["u"].tls.ca, None, None),
    )


def lenient(context: ssl.SSLContext, version: ssl.TLSVersion, folder: Path) -> ssl.SSLContext:
    """``context``, who would speak the weakest there is, and nothing newer than ``version``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(folder / "s.pem", folder / "s.key")
    context.load_verify_locations(folder / "ca.pem")
    return context


def agreed(client: ssl.SSLContext, server: ssl.SSLContext) -> str | None:
    """The version that both agree on. Raises SSLError where they do not."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there, server_hostname="h")
    asked = server.wrap_bio(there, back, server_side=True)
    for side in (asking, asked) * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert asked.getpeercert() or server.verify_mode == ssl.CERT_NONE
    return asking.version()


@pytest.mark.parametrize("version", OLD + NEW)
def test_no_version_before_1_2_is_agreed_on_however_much_the_other_side_wants_it(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path, version: ssl.TLSVersion
) -> None:
    server, towards = contexts
    weak_client = lenient(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), version, tmp_path)
    weak_server = lenient(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), version, tmp_path)
    for client, answering in ((weak_client, server), (towards, weak_server)):
        if version in OLD:
            with pytest.raises(ssl.SSLError):
                agreed(client, answering)
        else:
            assert agreed(client, answering) == version.name.replace("v1_", "v1.")


def test_a_client_can_neither_begin_anew_nor_have_anything_compressed(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server, _ = contexts
    assert server.options & ssl.OP_NO_RENEGOTIATION
    assert server.options & ssl.OP_NO_COMPRESSION
