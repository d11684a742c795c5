"""One question to a gateway that runs: does it live, is it ready?

Owns: where a configuration's gateway is asked, the asking, the sentence about what came of it.
Does not know: when it is asked, what exit code that makes.
"""

from __future__ import annotations

import ssl
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.errors import ConfigError
from gateway.sections import ServerConfig

_ANSWER_BYTES_MAX: Final = 4096
#: Addresses to listen on that are none to connect to.
_EVERY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 — to compare with


def place_of(server: ServerConfig) -> str:
    """The URL under which the gateway of this configuration is asked from its own machine: that of
    its admin port, if it has one.

    Raises:
        ConfigError: it would have to show a certificate there.
    """
    if server.admin is None and server.tls is not None and server.tls.client_ca is not None:
        words = "server.tls.client_ca has every client show a certificate, and this one has none"
        raise ConfigError([f"{words}: give the gateway a port to be watched on, server.admin"])
    listening = server.admin or server
    host = _EVERY_ADDRESS.get(listening.host, listening.host)
    scheme = "https" if server.tls is not None and server.admin is None else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{listening.port}"


def trust(ca: Path | None, *, checked: bool) -> ssl.SSLContext:
    """What holds of certificates: they come from a CA of the file ``ca``, without one from a CA
    of the system; where they are not ``checked``, from anybody.

    Raises:
        ConfigError: ``ca`` cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as error:  # an SSLError is one, too
        raise ConfigError([f"{ca}: no certificates can be read from it: {error}"]) from error
    if not checked:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def ask(url: str, path: str, *, timeout_s: float, context: ssl.SSLContext) -> tuple[bool, str]:
    """GET ``path`` of the gateway at ``url``: whether the answer was 200, and a sentence on it.

    ``timeout_s`` holds for each wait. ``context`` is what ``https://`` uses.
    """
    parts = urlsplit(url)
    asked = f"{url}{path}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return False, f"{url}: must begin with http:// or https:// and name a host"
    connection: HTTPConnection
    try:
        if parts.scheme == "https":
            connection = HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout_s, context=context
            )
        else:
            connection = HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
        with closing(connection):
            connection.request("GET", f"{parts.path}{path}", headers={"Connection": "close"})
            with connection.getresponse() as answer:
                said = answer.read(_ANSWER_BYTES_MAX).decode("utf-8", "replace")
    except TimeoutError:
        return False, f"{asked}: no answer within {timeout_s:g} s"
    except (OSError, HTTPException, ValueError) as error:
        return False, f"{asked}: {_words(error)}"
    words = " ".join("".join(each if each.isprintable() else " " for each in said).split())
    return answer.status == 200, f"{asked}: {answer.status}{f': {words}' if words else ''}"


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS can be agreed on: {error.reason or error}"
    if isinstance(error, HTTPException):
        return f"what answers there does not speak HTTP ({type(error).__name__})"
    return getattr(error, "strerror", None) or str(error)
