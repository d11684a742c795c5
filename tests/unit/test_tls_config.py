"""What the configuration says of certificates and keys that cannot be used, and where."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.config import load
from gateway.errors import ConfigError

_HEAD = """\
server: {port: 0, tls: {certificate: s.pem, key: s.key}}
upstreams:
  u: {kind: cambrion, url: "https://h/v1"}
pipelines: {p: {upstream: u}}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "named.pem").write_text("# Zürich CA\n" + (folder / "ca.pem").read_text())
    old = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 2, 1, tzinfo=UTC)
    for name, made in (
        ("s", ca.issue_cert("h")),
        ("other", ca.issue_cert("h")),
        ("old", ca.issue_cert("h", not_before=old[0], not_after=old[1])),
    ):
        made.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        made.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    key = load_pem_private_key((folder / "s.key").read_bytes(), None)
    locked = BestAvailableEncryption(b"password")
    (folder / "locked.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
    )
    return folder


def problems(folder: Path, text: str) -> list[str]:
    path = folder / "g.yaml"
    path.write_text(text)
    try:
        load(path, {})
    except ConfigError as error:
        return [line.replace(str(folder), "DIR") for line in error.problems]
    return []


def test_a_certificate_and_its_key_are_taken_and_cas_with_names_in_any_language(
    files: Path,
) -> None:
    assert problems(files, _HEAD) == []
    assert problems(files, _HEAD.replace("s.key}", "s.key, client_ca: named.pem}")) == []


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        (
            "s.pem", "other.key",
            "server.tls.key: the file DIR/other.key is not the key of the certificate in "
            "DIR/s.pem",
        ),
        (
            "s.pem", "locked.key",
            "server.tls.key: the file DIR/locked.key is encrypted, and nobody is asked for "
            "its password; decrypt it with: openssl pkey -in KEY -out KEY",
        ),
        ("s.key", "s.key", "server.tls.certificate: the file DIR/s.key holds no certificate"),
        (
            "s.pem", "ca.pem",
            "server.tls.key: the file DIR/ca.pem holds no private key that can be read, or "
            "DIR/s.pem no certificate",
        ),
        ("none", "s.key", "server.tls.certificate: there is no such file DIR/none"),
        (
            "{file: s.pem}", "s.key",  # as keys and expressions may be given
            "server.tls.certificate: must be the path of a PEM file",
        ),
    ],
)  # fmt: skip
def test_what_clients_cannot_be_shown_is_named_where_it_is_written(
    files: Path, certificate: str, key: str, words: str
) -> None:
    text = _HEAD.replace("s.pem", certificate).replace("s.key", key)
    name, value = ("key", key) if ".key:" in words else ("certificate", certificate)
    column = text.index(f"{name}: {value}") + len(f"{name}: ") + 1
    assert problems(files, text) == [f"DIR/g.yaml:1:{column}: {words}"]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{key: s.key}", "upstreams.u.tls.key: stands alone; certificate and key belong together"),
        ("{certificate: s.pem}", "upstreams.u.tls.key: is missing"),
        (
            "{ca: s.key}",
            "upstreams.u.tls.ca: the file DIR/s.key holds no certificate that can be read",
        ),
    ],
)
def test_half_of_what_an_upstream_is_shown_is_a_mistake(
    files: Path, section: str, words: str
) -> None:
    (found,) = problems(files, _HEAD.replace('/v1"', f'/v1", tls: {section}'))
    assert found.startswith("DIR/g.yaml:3:")
    assert found.endswith(words)


def test_keys_of_tls_where_nothing_is_encrypted_are_a_mistake(files: Path) -> None:
    text = _HEAD.replace("https://h/v1", "http://h/v1").replace('/v1"', '/v1", tls: {ca: ca.pem}')
    assert problems(files, text) == [
        "DIR/g.yaml:3:43: upstreams.u.tls: is only looked at where url begins with https:// or "
        "grpcs://"
    ]
