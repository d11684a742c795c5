"""Certificates, clients that speak TLS, and a gateway that reads its configuration from a folder.

Owns: CAs and what they issue, as files; a bare connection over TLS; a gateway with a port for
watching, in the test's own loop.
Does not know: what any test shows.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import trustme

from gateway import app
from gateway.config import Config, load
from gateway.loaded import Loaded
from gateway.yamltext import Files
from tests.support.raw import Raw

#: What the system takes in for a socket that nobody reads from, bytes; it doubles that itself.
_RECEIVE_BYTES = 16 * 1024


class Authority:
    """A CA, whose certificate is ``NAME.pem`` in ``folder``."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._ca = trustme.CA(organization_name=name)
        self.pem = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.pem))

    def issue(
        self, name: str, *hosts: str, begins: datetime | None = None, ends: datetime | None = None
    ) -> None:
        """Write ``name.pem`` and ``name.key``, for 127.0.0.1 where no ``hosts`` are given. Each
        takes the place of what was there at once."""
        made = self._ca.issue_cert(*(hosts or ("127.0.0.1",)), not_before=begins, not_after=ends)
        chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
        for suffix, data in (("pem", chain), ("key", made.private_key_pem.bytes())):
            new = self._folder / f".new.{suffix}"
            new.write_bytes(data)
            new.replace(self._folder / f"{name}.{suffix}")

    def trusting(self, own: str = "", **versions: ssl.TLSVersion) -> ssl.SSLContext:
        """A client that trusts it, and shows the certificate ``own``."""
        context = ssl.create_default_context(cafile=self.pem)
        context.set_alpn_protocols(["h2", "http/1.1"])
        for name, version in versions.items():
            setattr(context, name, version)
        if own:
            context.load_cert_chain(self._folder / f"{own}.pem", self._folder / f"{own}.key")
        return context

    def serving(self, own: str, client_ca: Path | None = None) -> ssl.SSLContext:
        """A server that shows the certificate ``own``, and demands one of ``client_ca``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / f"{own}.pem", self._folder / f"{own}.key")
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        return context


class Secret:
    """A connection over TLS. Beyond 16 KiB nothing is read but by ``read`` and ``read_all``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def tls(self) -> ssl.SSLObject:
        """What was agreed on."""
        found: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return found

    @property
    def serial(self) -> str:
        """Of the certificate that was shown."""
        shown: dict[str, Any] | None = self.tls.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def read(self, limit: int = 1 << 16) -> bytes:
        """What is there, or the next that comes; empty once the gateway has closed."""
        return await self._reader.read(limit)

    async def read_until(self, end: bytes) -> bytes:
        """Everything up to and with ``end``."""
        return await self._reader.readuntil(end)

    async def read_all(self) -> bytes:
        """Everything up to the end of the connection, which may be a reset."""
        pieces = []
        try:
            while piece := await self.read():
                pieces.append(piece)
        except (ConnectionError, ssl.SSLError):
            pass  # what came before it still counts
        return b"".join(pieces)

    def leave(self) -> None:
        """Be gone, without a word."""
        self._writer.transport.abort()


@asynccontextmanager
async def secret(address: tuple[str, int], context: ssl.SSLContext) -> AsyncIterator[Secret]:
    """A connection over TLS to ``address``, whose receive buffer is small."""
    connection = socket.socket()
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
    await asyncio.get_running_loop().sock_connect(connection, address)
    reader, writer = await asyncio.open_connection(
        sock=connection, ssl=context, server_hostname=address[0], limit=_RECEIVE_BYTES
    )
    try:
        yield Secret(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def plainly(address: tuple[str, int]) -> AsyncIterator[Raw]:
    """A connection to ``address`` without TLS."""
    connection = socket.socket()
    connection.setblocking(False)
    client = Raw(connection)
    try:
        await asyncio.get_running_loop().sock_connect(connection, address)
        yield client
    finally:
        client.close()


@asynccontextmanager
async def watched(path: Path) -> AsyncIterator[app.Listening]:
    """A gateway in the test's own loop with the file ``path``, which it loads anew as it does as a
    process of its own."""
    files: Files = {}

    def again(files: Files) -> Config:
        return load(path, os.environ, files=files)

    async with app.listening(Loaded(again(files), files), again) as there:
        yield there


def url(address: tuple[str, int] | None, scheme: str = "http") -> str:
    """The base URL of ``address``."""
    assert address is not None
    return f"{scheme}://{address[0]}:{address[1]}"
