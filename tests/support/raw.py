"""A client made of a bare socket, which sends and reads what the test says and when.

Owns: the socket, and how much the system may take in for one that does not read.
Does not know: HTTP beyond the writing of a request and the taking apart of an answer.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

#: What the system takes in for a socket that nobody reads from, bytes; it doubles that itself.
_RECEIVE_BYTES = 16 * 1024


class Raw:
    """One connection to a gateway. Nothing is read but by ``read`` and ``read_all``."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self._loop.sock_sendall(self._socket, data)

    async def read(self, limit: int = 1 << 16) -> bytes:
        """What is there, or the next that comes; empty once the gateway has closed."""
        return await self._loop.sock_recv(self._socket, limit)

    async def read_all(self) -> bytes:
        """Everything up to the end of the connection, which may be a reset."""
        pieces = []
        try:
            while piece := await self.read():
                pieces.append(piece)
        except ConnectionResetError:
            pass  # what came before it still counts
        return b"".join(pieces)

    def close(self) -> None:
        """Leave."""
        self._socket.close()


@asynccontextmanager
async def raw(base: str) -> AsyncIterator[Raw]:
    """A connection to the gateway at ``base`` whose receive buffer is small."""
    host, port = base.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
    client = Raw(connection)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
        yield client
    finally:
        client.close()


def request(path: str, body: Any = None, *headers: str, length: int | None = None) -> bytes:
    """A whole request, POST where there is a body, which is JSON unless it is bytes.

    ``length`` is the length that its head tells, where that is another.
    """
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", "Host: x", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(data) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def answer(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, header fields in lower case and body of one answer that is not chunked."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    return int(first.split(" ")[1]), fields, body
