"""The way to a host: its name, its addresses, a connection of TCP to one of them.

Owns: when a name is looked up, and which of several addresses is tried when.
Does not know: what goes over the connection, how long the way there may take.
"""

from __future__ import annotations

import asyncio
import socket
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
