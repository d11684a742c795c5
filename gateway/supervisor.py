"""The process that keeps several workers, and serves nothing itself.

It binds the port, starts a worker for each place, and starts another where one has ended, for
whatever reason; the others' connections go on. It reads the configuration for all of them, and sums
up what they count. It never touches a request, nor evaluates an expression: what could go wrong
with those goes wrong in a worker.

Owns: the places, the pauses between restarts, the order in which all ends.
Does not know: what a worker does (``worker``), what is said to it about a configuration
(``agreement``) or its counts (``gathering``).
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry

from gateway import logs
from gateway.accepting import Bound, Shares
from gateway.agreement import Agreement
from gateway.crew import Worker, bury, status_text
from gateway.errors import ConfigError, GatewayError
from gateway.gathering import Gathering
from gateway.link import (
    Counted,
    Cut,
    Failed,
    FromWorker,
    Prepared,
    Ready,
    Scraped,
    Stop,
    Taken,
    packed,
)
from gateway.loaded import Load, Loaded
from gateway.metrics import Metrics, Process
from gateway.reloading import Reloader
from gateway.restarts import Restarts
from gateway.told import Told, end_within
from gateway.vitals import introduce, watched

#: What workers may take to end beyond the times that are configured, and once told to end at once,
#: seconds; then they are killed. Then this process may take so long to end itself.
_LATE_S: Final = 12.0
_CUT_S: Final = 1.2
_EXIT_S: Final = 1.8

Keeper: TypeAlias = asyncio.Task[None]


@dataclass(frozen=True, slots=True)
class _Ended:
    """A worker's end, and ``how`` it came to it: ``well`` where it was told to. ``served_s``:
    ``None`` where it never served, and ``failure`` what it said of that."""

    pid: int | None
    how: str
    well: bool
    served_s: float | None = None
    failure: GatewayError | None = None


class Supervisor:
    """Keeps as many workers as there are ``places``."""

    def __init__(self, loaded: Loaded, load: Load, places: int) -> None:
        self._loaded = loaded
        self._load = load
        self._places = places
        self._told = Told()
        self._loop = asyncio.get_running_loop()
        self._metrics = Metrics(CollectorRegistry())
        introduce(self._metrics)
        self._metrics.workers.labels()
        self._metrics.worker_restarts.labels()
        self._gathering = Gathering(self._metrics)
        self._gathering.configured(loaded.config)
        self._agreement = Agreement(packed(loaded.config), loaded.hash, loaded.paths)
        self._workers: set[Worker] = set()
        self._idents = count()
        #: Workers that are being started: their process IDs are not known yet.
        self._starting = 0
        #: What workers have been told of the end.
        self._last_word: Stop | Cut | None = None
        #: The places that have had a worker which served; once all have, the start is over.
        self._served: set[int] = set()
        self._begun = asyncio.Event()
        self._cannot_begin: GatewayError | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Keep them until told to stop. Returns the process's exit code: 0, or 128 and the signal's
        number where a second one ended it at once.

        Raises:
            ConfigError: the workers cannot use the configuration, or the address.
            GatewayError: a worker cannot start for another reason.
        """
        self._told.by_signals()
        self._loop.add_signal_handler(signal.SIGCHLD, self._bury)
        server = self._loaded.config.server
        sockets = await Bound.of(server)
        shares = Shares.create(self._places)
        keepers = []
        try:
            for place in range(self._places):
                keeper = asyncio.create_task(self._keep(place, sockets, shares))
                # One that ends before the end has failed, or could not start.
                keeper.add_done_callback(lambda _: self._told.to_stop(pre_stop=False))
                keepers.append(keeper)
            async with watched(self._metrics, Process.SUPERVISOR):
                code = await self._until_told(sockets, keepers)
        finally:
            await self._clear(sockets, keepers)
            shares.close()
        if self._cannot_begin is not None:
            raise self._cannot_begin
        end_within(_EXIT_S, code)
        return code

    async def _until_told(self, sockets: Bound, keepers: list[Keeper]) -> int:
        work = asyncio.create_task(self._serve(sockets, keepers))
        at_once = asyncio.create_task(self._told.at_once.wait())
        await asyncio.wait((work, at_once), return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
        if work.done():
            work.result()
            return 0
        code = 128 + self._told.number
        end_within(_EXIT_S, code)
        logs.events.warning("stopping at once", extra={"fields": {"signal": self._told.number}})
        self._tell(Cut(self._told.number))
        work.cancel()
        await asyncio.wait((work, *keepers), timeout=_CUT_S)
        return code

    async def _serve(self, sockets: Bound, keepers: list[Keeper]) -> None:
        reloader = Reloader(self._loaded, load=self._load, apply=self._apply, metrics=self._metrics)
        try:
            if await self._begin():
                self._loaded.log_start(sockets.address, self._places, sockets.admin_address)
                reloader.start()
                self._told.on_reload(reloader.ask)
                await self._told.stop.wait()
            if self._cannot_begin is None:
                await self._finish(sockets, keepers)
        finally:
            await reloader.close()

    async def _begin(self) -> bool:
        """Wait until all serve; whether they do, or it was told to stop before."""
        waits = [asyncio.create_task(each.wait()) for each in (self._begun, self._told.stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        return self._begun.is_set()

    async def _finish(self, sockets: Bound, keepers: list[Keeper]) -> None:
        """Let the workers come to their end in the time that the live configuration gives them."""
        server = self._loaded.config.server
        pre_stop_s = server.pre_stop_s if self._told.pre_stop else 0.0
        fields = {"pre_stop_s": pre_stop_s, "drain_s": server.drain_s}
        logs.events.info("stopping", extra={"fields": fields})
        self._tell(Stop(self._told.pre_stop))
        # The workers' own are open until they accept no more; then nobody is to be kept waiting.
        sockets.close()
        await asyncio.wait(keepers, timeout=pre_stop_s + server.drain_s + _LATE_S)
        for worker in self._workers:
            worker.log("a worker that does not end is killed")
        if not self._workers:
            logs.events.info("stopped")

    async def _clear(self, sockets: Bound, keepers: list[Keeper]) -> None:
        """See to it that nothing is left."""
        self._told.to_stop(pre_stop=False)
        for worker in self._workers:
            worker.kill()
        if keepers:
            await asyncio.wait(keepers)
        for task in self._answering:
            task.cancel()
        sockets.close()
        for keeper in keepers:
            keeper.result()

    async def _apply(self, loaded: Loaded) -> None:
        config = await asyncio.to_thread(packed, loaded.config)
        await self._agreement.reach(config, loaded.hash, loaded.paths)
        self._loaded = loaded
        self._gathering.configured(loaded.config)

    def _tell(self, word: Stop | Cut) -> None:
        self._last_word = word
        for worker in self._workers:
            worker.send(word)

    # One place

    async def _keep(self, place: int, sockets: Bound, shares: Shares) -> None:
        """See to it that a worker serves at ``place``, until told to stop."""
        restarts = Restarts()
        again = False
        while not self._told.stop.is_set():
            ended = await self._one(place, sockets, shares, again=again)
            if self._told.stop.is_set():
                return
            if ended.served_s is None and not self._begun.is_set():
                # What cannot start at all is told once, and not tried for ever.
                silent = GatewayError(f"a worker ended with {ended.how} before it served")
                self._cannot_begin = self._cannot_begin or ended.failure or silent
                return
            pause_s = restarts.pause_s(ended.served_s)
            fields = {
                "worker": place + 1,
                "pid": ended.pid,
                "ended_with": ended.how,
                "served_s": None if ended.served_s is None else round(ended.served_s, 3),
                "restart_in_s": pause_s,
            }
            level = logging.INFO if ended.well else logging.ERROR
            logs.events.log(level, "a worker has ended", extra={"fields": fields})
            again = True
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._told.stop.wait()

    async def _one(self, place: int, sockets: Bound, shares: Shares, *, again: bool) -> _Ended:
        """The life of one worker."""
        self._starting += 1
        try:
            worker = await Worker.start(
                next(self._idents), place, sockets, shares, self._agreement.live
            )
        except OSError as error:
            return _Ended(None, f"no process: {error.strerror}", well=False)
        finally:
            self._starting -= 1
        if again:
            self._metrics.worker_restarts.labels().inc()
            worker.log("a worker is started")
        self._workers.add(worker)
        self._bury()
        if self._last_word is not None:
            worker.send(self._last_word)
        try:
            status = await worker.ended(partial(self._heard, worker))
        finally:
            worker.kill()
            shares.leave(place)
            self._workers.discard(worker)
            self._agreement.left(worker)
            self._gathering.left(worker)
            self._count()
        served_s = None if worker.since is None else self._loop.time() - worker.since
        how = status_text(status) if worker.failure is None else worker.failure.message
        return _Ended(worker.pid, how, status == 0, served_s, worker.failure)

    def _heard(self, worker: Worker, message: FromWorker) -> None:
        match message:
            case Ready():
                worker.since = self._loop.time()
                self._agreement.joined(worker, message.number)
                self._count()
                self._served.add(worker.place)
                if len(self._served) == self._places:
                    self._begun.set()
            case Failed():
                problems = message.problems
                worker.failure = (
                    ConfigError(problems) if message.config else GatewayError("; ".join(problems))
                )
            case Prepared() | Taken():
                self._agreement.heard(worker, message)
            case Counted():
                self._gathering.heard(worker, message)
            case Scraped():
                workers = [each for each in self._workers if each.since is not None]
                answering = self._gathering.answer(message, worker, workers)
                task = asyncio.create_task(answering)
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    def _bury(self) -> None:
        if not self._starting:
            bury({worker.pid for worker in self._workers})

    def _count(self) -> None:
        serving = sum(worker.since is not None for worker in self._workers)
        self._metrics.workers.labels().set(serving)
