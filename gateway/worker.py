"""One worker: a process that serves as others beside it do, and does what its supervisor says.

It starts with what it is given over the link, tells when it serves, and goes on until it is told
to stop or the supervisor has gone, however that came about: then nobody would replace it, or tell
it of another configuration.

Owns: the worker's end of the link, and its order: what is answered at once, what one after another.
Does not know: what is opened (``serving``), who else serves, when anything is reloaded.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias

import msgspec

from gateway import logs, loops, memory
from gateway.accepting import Shares
from gateway.errors import ConfigError, GatewayError, Overloaded, ShuttingDown
from gateway.link import (
    Ask,
    Counted,
    Cut,
    Drop,
    Failed,
    Given,
    Link,
    Prepared,
    Ready,
    Scraped,
    Stop,
    Take,
    Taken,
    ToWorker,
    Written,
    of_worker,
    unpacked,
)
from gateway.sampling import Counts
from gateway.serving import Life, Serving, new_metrics, opened
from gateway.site import Site
from gateway.told import Told

#: How often what was counted is told unasked, seconds: a process that is killed takes with it what
#: it has not told. Where that takes long, it is told less often: so often that it costs this share.
TELL_S: Final = 1.0
_SHARE: Final = 0.02
#: How long the supervisor may take to put /metrics together, seconds.
_SCRAPE_S: Final = 5.0
#: How long the last words may take, seconds.
_LAST_S: Final = 0.5

_Order: TypeAlias = Given | Take | Drop


class Settings(msgspec.Struct):
    """What a worker inherits: descriptors of its end of the link, of the sockets to accept on,
    those for watching, and of the memory of ``Shares``, and its place in that."""

    place: int
    link: int
    sockets: list[int]
    admin: list[int]
    shares: int


class _Worker:
    def __init__(self, settings: Settings, link: Link[ToWorker], first: Given) -> None:
        self._settings = settings
        self._link = link
        self._first = first
        self._told = Told()
        self._metrics = new_metrics()
        self._counts = Counts(self._metrics)
        self._orders: asyncio.Queue[_Order] = asyncio.Queue()
        self._scrapes: dict[int, asyncio.Future[Written]] = {}
        self._scraped = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        loop = asyncio.get_running_loop()
        # A control group may be told to end as a whole: what the supervisor says is the same.
        loop.add_signal_handler(signal.SIGTERM, lambda: self._told.to_stop(pre_stop=True))
        for number in (signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: None)
        tasks = [asyncio.create_task(each) for each in (self._listen(), self._tell_regularly())]
        try:
            code = await Life(self._open, self._told).run()
        except GatewayError as error:
            self._link.send(Failed(_problems(error), isinstance(error, ConfigError)))
            code = 1
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_S):
                await self._tell(None)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await self._link.close()
        for task in tasks:
            if task.done() and not task.cancelled():
                task.result()
        return code

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Serving]:
        config = unpacked(self._first.config)
        first, metrics = self._first, self._metrics
        async with opened(config, first.hash, metrics, self._expose, files=first.files) as serving:
            obeying = asyncio.create_task(self._obey(serving))
            try:
                sockets, admin = (
                    [socket.socket(fileno=each) for each in descriptors]
                    for descriptors in (self._settings.sockets, self._settings.admin)
                )
                shares = Shares(self._settings.shares)
                await serving.listener.join(sockets, shares, self._settings.place)
                await serving.admin.share(admin)
                self._link.send(Ready(self._first.number))
                yield serving
            finally:
                obeying.cancel()
                await asyncio.wait((obeying,))
                if not obeying.cancelled():
                    obeying.result()

    # What the supervisor says

    async def _listen(self) -> None:
        try:
            while (message := await self._link.receive()) is not None:
                self._heed(message)
            if not self._told.stop.is_set():
                logs.events.warning("the supervisor has gone")
        finally:
            self._told.to_stop(pre_stop=False)
            for scrape in self._scrapes.values():
                scrape.cancel()

    def _heed(self, message: ToWorker) -> None:
        match message:
            case Given() | Take() | Drop():
                self._orders.put_nowait(message)
            case Ask():
                task = asyncio.create_task(self._tell(message.number))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Written():
                scrape = self._scrapes.get(message.number)
                if scrape is not None and not scrape.done():
                    scrape.set_result(message)
            case Stop():
                self._told.to_stop(pre_stop=message.pre_stop)
            case Cut():
                self._told.to_cut(message.signal)

    async def _obey(self, serving: Serving) -> None:
        """Make configurations ready and take them, one after the other."""
        ready: tuple[Site, str, tuple[str, ...]] | None = None
        try:
            while True:
                order = await self._orders.get()
                match order:
                    case Given():
                        ready = await self._prepare(serving, order)
                    case Take() if ready is not None:
                        serving.live.take(*ready)
                        ready = None
                        self._link.send(Taken(order.number))
                    case Drop() if ready is not None:
                        site, ready = ready[0], None
                        await site.shut()
        finally:
            # Deaf to its orders it is of no use, and another can take its place.
            self._told.to_stop(pre_stop=False)
            if ready is not None:
                await ready[0].shut()

    async def _prepare(
        self, serving: Serving, given: Given
    ) -> tuple[Site, str, tuple[str, ...]] | None:
        problems, site = [], None
        try:
            config = await asyncio.to_thread(unpacked, given.config)
            site = await serving.assemble(config)
        except GatewayError as error:
            problems = _problems(error)
        except Exception as error:  # noqa: BLE001  whatever it is, the old one must stay live
            logs.events.exception("a reload failed in the gateway")
            problems = [f"the gateway failed: {type(error).__name__}"]
        self._link.send(Prepared(given.number, problems))
        return None if site is None else (site, given.hash, given.files)

    # What was counted

    async def _tell_regularly(self) -> None:
        try:
            while True:
                await asyncio.sleep(max(TELL_S, self._counts.took_s / _SHARE))
                await self._tell(None)
                # A supervisor that has been halted is not told ever more.
                await self._link.sent()
        finally:
            self._told.to_stop(pre_stop=False)

    async def _tell(self, number: int | None) -> None:
        change = await self._counts.change()
        if change or number is not None:
            self._link.send(Counted(number, change))

    async def _expose(self, accept: str) -> tuple[bytes, str]:
        """The counts of all workers. Raises ShuttingDown, Overloaded."""
        self._scraped += 1
        number = self._scraped
        scrape: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self._scrapes[number] = scrape
        self._link.send(Scraped(number, accept))
        try:
            done, _ = await asyncio.wait((scrape,), timeout=_SCRAPE_S)
        finally:
            del self._scrapes[number]
        if not done:
            # Its own counts alone would be lower than what was told before.
            raise Overloaded("the counts of all workers did not come in time", retry_after_s=1)
        if scrape.cancelled():
            raise ShuttingDown("the supervisor has gone", retry_after_s=1)
        written = scrape.result()
        return written.text, written.content_type


def _problems(error: GatewayError) -> list[str]:
    return error.problems if isinstance(error, ConfigError) else [error.message]


async def _run(settings: Settings) -> int:
    link = await of_worker(socket.socket(fileno=settings.link))
    first = await link.receive()
    if not isinstance(first, Given):
        return 0  # the supervisor has gone already
    return await _Worker(settings, link, first).run()


def main(settings: str) -> None:
    """Be the worker that ``settings``, as JSON, describe; exits."""
    decoded = msgspec.json.decode(settings, type=Settings)
    # A child for expressions that held them would keep the port, and hide this process's end.
    for descriptor in (decoded.link, decoded.shares, *decoded.sockets, *decoded.admin):
        os.set_inheritable(descriptor, False)
    logs.setup(worker=decoded.place + 1)
    memory.give_back()
    sys.exit(loops.run(_run(decoded)))
