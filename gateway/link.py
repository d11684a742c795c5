"""What the supervisor and its workers tell each other, and the pair of sockets that it goes over.

Each message is a length of four bytes and as many bytes of MessagePack. What is sent arrives, and
in its order, for as long as both ends live; the end of the one is the end of the stream for the
other, whatever it died of.

Owns: the messages and their way.
Does not know: what follows from them.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec

from gateway.config import Config
from gateway.gathered import Change

_LENGTH_BYTES: Final = 4
#: Beyond so much that the other end has not taken, ``sent`` waits.
_UNSENT_BYTES: Final = 1024 * 1024


class Message(msgspec.Struct, tag=True, array_like=True):
    """What all messages have in common."""


class Given(Message):
    """To a worker: a configuration, ``config`` as ``packed`` makes it; the first is what it starts
    with, any further one it makes ready and answers with ``Prepared``. ``hash``, ``files``: of its
    files, and their paths."""

    number: int
    config: bytes
    hash: str
    files: tuple[str, ...] = ()


class Take(Message):
    """To a worker: the configuration that it has made ready is the live one from now on."""

    number: int


class Drop(Message):
    """To a worker: the configuration that it has made ready, or is about to, is not wanted."""

    number: int


class Ask(Message):
    """To a worker: tell now what has changed in your counts. Answered with ``Counted``."""

    number: int


class Written(Message):
    """To a worker: the text of /metrics that it asked for with ``Scraped``."""

    number: int
    text: bytes
    content_type: str


class Stop(Message):
    """To a worker: finish what was begun and end. ``pre_stop``: whoever sends requests is still to
    learn of it."""

    pre_stop: bool


class Cut(Message):
    """To a worker: end at once."""

    signal: int


class Ready(Message):
    """From a worker: it serves, by the configuration ``number``."""

    number: int


class Failed(Message):
    """From a worker: it cannot start. ``config``: because of the configuration."""

    problems: list[str]
    config: bool


class Prepared(Message):
    """From a worker: a configuration is ready to be taken, or has ``problems``."""

    number: int
    problems: list[str]


class Taken(Message):
    """From a worker: the configuration is live."""

    number: int


class Counted(Message):
    """From a worker: what has changed in its counts. ``number``: of the question, where there was
    one."""

    number: int | None
    change: Change


class Scraped(Message):
    """From a worker: it was asked for /metrics, by someone who accepts ``accept``."""

    number: int
    accept: str


ToWorker: TypeAlias = Given | Take | Drop | Ask | Written | Stop | Cut
FromWorker: TypeAlias = Ready | Failed | Prepared | Taken | Counted | Scraped
M = TypeVar("M")


class Link(Generic[M]):
    """One end of the pair, at which ``M`` arrives. Made by ``of_worker`` and ``of_supervisor``."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decoder: msgspec.msgpack.Decoder[M],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()
        writer.transport.set_write_buffer_limits(high=_UNSENT_BYTES)

    def send(self, message: Message) -> None:
        """Send it, without waiting. Where the other end has gone, nothing happens."""
        if self._writer.is_closing():
            return
        data = self._encoder.encode(message)
        self._writer.writelines((len(data).to_bytes(_LENGTH_BYTES), data))

    async def sent(self) -> None:
        """Wait until the other end has taken most of what was sent, or has gone."""
        try:
            await self._writer.drain()
        except ConnectionError:
            return  # ``receive`` tells of it

    async def receive(self) -> M | None:
        """The next message; ``None`` once the other end has gone."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES))
            return self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def close(self) -> None:
        """Close this end, once what was sent has gone out."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return  # the other end was faster


async def of_worker(end: socket.socket) -> Link[ToWorker]:
    """The worker's end."""
    return Link(*await asyncio.open_connection(sock=end), msgspec.msgpack.Decoder(ToWorker))


async def of_supervisor(end: socket.socket) -> Link[FromWorker]:
    """The supervisor's end of the link to one worker."""
    return Link(*await asyncio.open_connection(sock=end), msgspec.msgpack.Decoder(FromWorker))


def packed(config: Config) -> bytes:
    """``config`` whole, its secrets too, for a process of one's own."""
    return pickle.dumps(config, protocol=pickle.HIGHEST_PROTOCOL)


def unpacked(data: bytes) -> Config:
    """What ``packed`` made."""
    config = pickle.loads(data)  # noqa: S301  from the supervisor, over a socket nobody else has
    if not isinstance(config, Config):
        raise TypeError(f"a configuration was to come, not {type(config).__name__}")
    return config
