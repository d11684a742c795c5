"""The way to a host: its name, its addresses, a connection of TCP to one of them.

Owns: when a name is looked up, which of several addresses is tried when, and the words for what
keeps TLS from being spoken on the connection.
Does not know: what goes over the connection, how long the way there may take.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType

#: When the next of several addresses is tried beside one that does not answer (RFC 8305), seconds.
_NEXT_ADDRESS_S: Final = 0.25


async def dial(host: str, port: int) -> socket.socket:
    """A socket that is connected. ``host`` is without brackets.

    Raises:
        OSError: ``socket.gaierror`` where the name does not resolve, any other where nobody
            accepts.
        UnicodeError: a name that cannot be one.
    """
    loop = asyncio.get_running_loop()
    addresses = await _addresses(host, port, loop)
    try:
        return await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S, loop=loop
        )
    except RuntimeError as error:  # uvloop, where the socket was closed under it
        raise OSError(str(error)) from error


async def _addresses(
    host: str, port: int, loop: asyncio.AbstractEventLoop
) -> Sequence[AddrInfoType]:
    try:
        address = None if "%" in host else ip_address(host)
    except ValueError:
        address = None
    if address is None:
        return await loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    # Nothing to look up, so no thread is asked.
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]


#: What OpenSSL finds wrong with a certificate that it is shown, by its numbers.
_VERIFY: Final = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is signed by nobody but itself",
    19: "its certificate comes from a CA that is not trusted (tls.ca)",
    20: "its certificate comes from a CA that is not trusted (tls.ca)",
    21: "its certificate comes from a CA that is not trusted (tls.ca)",
    62: "its certificate is for another name (tls.server_name)",
    64: "its certificate is for another name (tls.server_name)",
}
#: What the other side says of the gateway's own, in the names of TLS's alerts.
_ALERTS: Final = (
    ("CERTIFICATE_REQUIRED", "it demands a client certificate (tls.certificate)"),
    ("CERTIFICATE_EXPIRED", "it says that the gateway's certificate has expired (tls.certificate)"),
    ("UNKNOWN_CA", "it does not trust the CA of the gateway's certificate (tls.certificate)"),
    ("CERTIFICATE", "it does not accept the gateway's certificate (tls.certificate)"),
    (
        "HANDSHAKE_FAILURE",
        "it agrees to no way of TLS, or demands a client certificate (tls.certificate)",
    ),
    ("PROTOCOL_VERSION", "it speaks no version of TLS from 1.2 on"),
    ("UNRECOGNIZED_NAME", "it knows no host of that name (tls.server_name)"),
)


def tls_words(error: BaseException | None) -> str:
    """Why TLS failed, for whoever configures it; ``error`` or what it came from is OpenSSL's."""
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY.get(
            error.verify_code, f"its certificate is not accepted ({error.verify_message})"
        )
    # One that OpenSSL did not raise has none.
    reason = getattr(error, "reason", None) or ""
    if "WRONG_VERSION_NUMBER" in reason or reason == "HTTP_REQUEST":
        return "does not speak TLS there"
    if "_ALERT_" in reason:
        for part, words in _ALERTS:
            if part in reason:
                return words
    if reason:
        return f"TLS failed ({reason.lower().replace('_', ' ')})"
    return str(error.args[-1]) if type(error) is ssl.SSLError else "TLS failed"
