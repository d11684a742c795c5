"""What TLS is spoken with: contexts made of PEM files, and what is wrong with such files.

Owns: which versions and options there are on both sides, whom each trusts, what it shows.
Does not know: which keys name the files, when they are read anew, what goes over a connection.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Final

from gateway.values import Pem

#: The words that OpenSSL has for it, and ours.
_MISMATCH: Final = "KEY_VALUES_MISMATCH"
_HTTP: Final = ("http/1.1",)


class _EncryptedError(Exception):
    """A key's password was asked for."""


def server_context(certificate: Pem, key: Pem, client_ca: Pem | None) -> ssl.SSLContext:
    """For connections of clients, who must show a certificate of ``client_ca`` where that is given.
    Raises ValueError, OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Nobody needs it, and it is how a client could make a server work for nothing.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(_HTTP)
    _show(context, certificate, key)
    if client_ca is not None:
        _trust(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def upstream_context(
    ca: Pem | None, certificate: Pem | None, key: Pem | None, protocols: Sequence[str] = _HTTP
) -> ssl.SSLContext:
    """For connections to an upstream, whose certificate must come from ``ca``, or from one of the
    system's where that is ``None``. Raises ValueError, OSError."""
    context = ssl.create_default_context() if ca is None else _empty()
    if ca is not None:
        _trust(context, ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(protocols)
    if certificate is not None and key is not None:
        _show(context, certificate, key)
    return context


@cache
def usual_context(*protocols: str) -> ssl.SSLContext:
    """For upstreams of which nothing is said: made once, for the system's CAs are hundreds."""
    return upstream_context(None, None, None, protocols)


def _empty() -> ssl.SSLContext:
    """Trusts nobody yet."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _trust(context: ssl.SSLContext, ca: Pem) -> None:
    try:
        # Between certificates there may be names in any language, which are not taken.
        text = ca.text.get_secret_value().encode("ascii", "ignore").decode()
        context.load_verify_locations(cadata=text)
    except ssl.SSLError as error:
        raise ValueError(f"the file {ca.path} holds no certificate that can be read") from error


@contextmanager
def _as_file(pem: Pem) -> Iterator[str]:
    """A path under which OpenSSL finds what was read of ``pem``: it takes these from files only."""
    if not hasattr(os, "memfd_create"):
        yield pem.path
        return
    with os.fdopen(os.memfd_create("pem"), "wb") as file:
        file.write(pem.text.get_secret_value().encode())
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _show(context: ssl.SSLContext, certificate: Pem, key: Pem) -> None:
    try:
        with _as_file(certificate) as shown, _as_file(key) as secret:
            # Without this OpenSSL would ask whoever sits at the terminal, if anybody does.
            context.load_cert_chain(shown, secret, password=_asked)
    except _EncryptedError:
        raise ValueError(
            f"the file {key.path} is encrypted, and nobody is asked for its password; decrypt it "
            "with: openssl pkey -in KEY -out KEY"
        ) from None
    except ssl.SSLError as error:
        if error.reason == _MISMATCH:
            raise ValueError(
                f"the file {key.path} is not the key of the certificate in {certificate.path}"
            ) from error
        raise ValueError(
            f"the file {key.path} holds no private key that can be read, or {certificate.path} no "
            "certificate"
        ) from error


def _asked() -> str:
    raise _EncryptedError


def check_pair(certificate: Pem, key: Pem) -> None:
    """See that ``key`` is that of ``certificate``. Raises ValueError, in words."""
    _show(_empty(), certificate, key)


def check_ca(ca: Pem) -> None:
    """See that ``ca`` holds certificates. Raises ValueError, in words."""
    _trust(_empty(), ca)


def date(seconds: float) -> str:
    """A moment, Unix seconds, as a person writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
