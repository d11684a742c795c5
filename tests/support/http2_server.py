"""A scripted gRPC server on a real socket, over an HTTP/2 that others wrote: it does what a test
says with each call, also what no server should.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, PingReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes

OK = (("grpc-status", "0"),)
HEAD = ((":status", "200"), ("content-type", "application/grpc"))


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    """A message as gRPC sends it."""
    return bytes((compressed,)) + len(message).to_bytes(4, "big") + message


class Asked:
    """One call, and the connection that it came on. ``gone`` is set when it is cancelled."""

    def __init__(self, connection: Connection, stream: int) -> None:
        self.connection = connection
        self.stream = stream
        self.gone = asyncio.Event()

    def head(self, *fields: tuple[str, str], end: bool = False) -> None:
        """Send fields: the usual ones of a beginning, where none are given."""
        self.connection.h2.send_headers(self.stream, fields or HEAD, end_stream=end)
        self.connection.flush()

    def data(self, data: bytes, *, end: bool = False) -> None:
        """Send bytes as they are, within the window."""
        for start in range(0, len(data) or 1, 16_000):
            piece = data[start : start + 16_000]
            last = end and start + 16_000 >= len(data)
            self.connection.h2.send_data(self.stream, piece, end_stream=last)
        self.connection.flush()

    def answer(self, message: bytes = b"hi") -> None:
        """A whole, well-formed answer."""
        self.head()
        self.data(framed(message))
        self.head(*OK, end=True)

    def reset(self, code: int) -> None:
        """Want no more of it."""
        self.connection.h2.reset_stream(self.stream, code)
        self.connection.flush()


Script = Callable[[Asked], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One connection of the server's. ``pings``: how many it got; ``deaf``: it answers nothing."""

    def __init__(self, server: Server) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, validate_outbound_headers=False))
        self.pings = 0
        self.deaf = False
        self.transport: asyncio.Transport
        self._server = server
        self._calls: dict[int, Asked] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._server.connections.append(self)
        if self._server.mute:
            return
        self.h2.initiate_connection()
        self.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: self._server.at_once})
        if self._server.leaving:
            self._server.leaving -= 1
            self.h2.close_connection(ErrorCodes.NO_ERROR, last_stream_id=0)
            self.deaf = True
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self.deaf or self._server.mute:
            return
        for event in self.h2.receive_data(data):
            if isinstance(event, DataReceived) and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                asked = self._calls[event.stream_id] = Asked(self, event.stream_id)
                self._server.run(asked)
            elif isinstance(event, StreamReset) and event.stream_id in self._calls:
                self._calls[event.stream_id].gone.set()
            elif isinstance(event, PingReceived):
                self.pings += 1
            elif isinstance(event, ConnectionTerminated):
                self.transport.close()
        self.flush()

    def flush(self) -> None:
        """Send what is to be sent."""
        self.transport.write(self.h2.data_to_send())

    def go_away(self, last: int) -> None:
        """Take no more calls; those up to ``last`` are still answered."""
        self.h2.close_connection(ErrorCodes.NO_ERROR, last_stream_id=last)
        self.transport.write(self.h2.data_to_send())
        # The library takes this for the end of all; a server may go on with what it has.
        self.deaf = True


class Server:
    """Answers each call by ``script``; the first ``leaving`` connections are told at once that it
    goes away."""

    def __init__(self, script: Script, *, at_once: int, mute: bool) -> None:
        self.script = script
        self.at_once = at_once
        self.mute = mute
        self.leaving = 0
        self.port = 0
        self.connections: list[Connection] = []
        self.calls = 0
        self._tasks: set[asyncio.Future[None]] = set()

    def run(self, asked: Asked) -> None:
        """Do with a call what the test says."""
        self.calls += 1
        self._tasks.add(asyncio.ensure_future(self.script(asked)))

    async def end(self) -> None:
        """Close everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self.connections:
            connection.transport.abort()


@asynccontextmanager
async def http2_server(
    script: Script, *, at_once: int = 100, mute: bool = False
) -> AsyncIterator[Server]:
    """A server that takes ``at_once`` calls at a time; a ``mute`` one never says a word."""
    server = Server(script, at_once=at_once, mute=mute)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.end()
