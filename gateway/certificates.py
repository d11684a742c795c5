"""What TLS is spoken with: contexts made of PEM files, and what is wrong with such files.

Owns: which versions and options there are on both sides, whom each trusts, what it shows.
Does not know: which keys name the files, when they are read anew, what goes over a connection.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Final

#: The words that OpenSSL has for it, and ours.
_MISMATCH: Final = "KEY_VALUES_MISMATCH"
_HTTP: Final = ("http/1.1",)


class _EncryptedError(Exception):
    """A key's password was asked for."""


def server_context(certificate: str, key: str, client_ca: str | None) -> ssl.SSLContext:
    """For connections of clients, who must show a certificate of ``client_ca`` where that is given.
    All three are paths. Raises ValueError, OSError."""
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
    ca: str | None, certificate: str | None, key: str | None, protocols: Sequence[str] = _HTTP
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


def _trust(context: ssl.SSLContext, ca: str) -> None:
    try:
        context.load_verify_locations(cafile=ca)
    except ssl.SSLError as error:
        raise ValueError(f"the file {ca} holds no certificate that can be read") from error


def _show(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        # Without this OpenSSL would ask whoever sits at the terminal, if anybody does.
        context.load_cert_chain(certificate, key, password=_asked)
    except _EncryptedError:
        raise ValueError(
            f"the file {key} is encrypted, and nobody is asked for its password; decrypt it with: "
            "openssl pkey -in KEY -out KEY"
        ) from None
    except ssl.SSLError as error:
        if error.reason == _MISMATCH:
            raise ValueError(
                f"the file {key} is not the key of the certificate in {certificate}"
            ) from error
        raise ValueError(
            f"the file {key} holds no private key that can be read, or {certificate} no certificate"
        ) from error


def _asked() -> str:
    raise _EncryptedError


def check_pair(certificate: str, key: str) -> None:
    """See that ``key`` is that of ``certificate``; both are paths. Raises ValueError, in words."""
    try:
        _show(_empty(), certificate, key)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error


def check_ca(ca: str) -> None:
    """See that the file ``ca`` holds certificates. Raises ValueError, in words."""
    try:
        _trust(_empty(), ca)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error


def date(seconds: float) -> str:
    """A moment, Unix seconds, as a person writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
