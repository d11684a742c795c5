"""Queued runs, as one process runs them.

Owns: which runs are claimed, how many run at once, what becomes of one that fails, is cancelled,
was taken away or is cut short by a stop; showing that this process lives, and taking over from
those that do not.
Does not know: where a store keeps anything, how a client asked for a run, how it is told of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from math import inf
from typing import Final, Protocol, TypeAlias

from msgspec.structs import replace

from gateway import logs
from gateway.dialects.events import event_json
from gateway.errors import Code, GatewayError, RequestRejected, ShuttingDown, StoreFailed
from gateway.executions import orders
from gateway.executions.eventlog import EventLog, insist
from gateway.executions.pulse import Pulse
from gateway.executions.records import Claim, Delivery, Ending, HookEvent, Key, Status, unknown
from gateway.executions.store import Store, Superseded
from gateway.executions.telling import status_event
from gateway.metrics import Dialect, Metrics, Mode
from gateway.model import Media, Request
from gateway.pipeline import Run
from gateway.sections import ExecutionsConfig
from gateway.site import Site
from gateway.tracing import apart

#: How long one question for work may stay open, and how long a store that failed is left alone.
_CLAIM_S: Final = 5.0
_AGAIN_S: Final = 0.5
#: How long what is being put back may take when the process ends, seconds.
_RELEASE_S: Final = 2.0
#: At least so often a process shows that it lives, and learns what was cancelled, seconds.
_BEAT_S: Final = 1.0
#: So many beats without an answer mean that the store has none to give.
_BEATS_MISSED: Final = 3


class Telling(Protocol):
    """Finds out which of an execution's webhooks are to be told of something."""

    async def __call__(
        self, event: HookEvent, status: Status | None, observation: bytes | None = None
    ) -> tuple[Delivery, ...]:
        """The messages; ``observation`` for an execution that keeps none. Raises StoreFailed."""
        ...


class _Why(Enum):
    """Why a run was ended from outside."""

    CANCELLED = auto()
    SUPERSEDED = auto()
    RELEASED = auto()


class _Turn:
    """A turn that is being run here.

    ``failure`` is what went wrong, once it has ended."""

    def __init__(self, claim: Claim, log: EventLog) -> None:
        self.claim = claim
        self.log = log
        self.task: asyncio.Task[None]  # set as soon as it is made
        self.telling: Telling | None = None
        self.failure: Exception | None = None
        self.why: _Why | None = None
        #: Whether its task has come so far that it can be cancelled: one that is cancelled before
        #: its first step ends without having written so.
        self.begun = False
        #: Whether it is past being cancelled: only its end is left to be written.
        self.ending = False

    def end(self, why: _Why) -> None:
        """End the run from outside. What was the first reason stays it; one whose end is being
        written learns from the store what that is worth."""
        if self.why is None and (why is _Why.RELEASED or not self.ending):
            self.why = why
            if self.begun:
                self.task.cancel()

    @property
    def place(self) -> tuple[Key, int]:
        """What the store knows it by. An execution that is made again after it was removed counts
        its turns anew, so two may have the same."""
        return self.claim.key, self.claim.turn


@dataclass(frozen=True, slots=True)
class Found:
    """What a run came to: an observation, to be added to its execution's; ``replace``: in the place
    of what is the same there."""

    observation: bytes | None = None
    replace: bool = False


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a run ended, and how long it took, seconds."""

    status: Status
    duration_s: float
    message: str | None = None
    found: Found = Found()


Work: TypeAlias = Callable[[EventLog], Awaitable[Found]]


class Runner:
    """Runs what is queued, from ``start`` to ``close``.

    Args:
        holder: the name of this process among all that use the store, never used before.
        site: the configuration that is live.
        clock: monotonic seconds, the running loop's own.
        wall: Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        section: ExecutionsConfig,
        *,
        holder: str,
        site: Callable[[], Site],
        telling: Callable[[Key], Awaitable[Telling]],
        metrics: Metrics,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._store = store
        self._section = section
        self._holder = holder
        self._site = site
        self._telling = telling
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._pulse = Pulse(section.lease_s)
        self._turns: set[_Turn] = set()
        self._slots = asyncio.Semaphore(section.concurrency)
        self._tasks: list[asyncio.Task[None]] = []
        self._idle = asyncio.Event()
        self._pause_s = min(_BEAT_S, section.lease_s / 5)
        self._heard = -inf
        self._adopted: frozenset[tuple[Key, int]] = frozenset()
        self._burying: set[asyncio.Task[None]] = set()
        #: Every holder that is known to the store, this one included; the first of them does what
        #: is to be done once for all.
        self.holders: frozenset[str] = frozenset()

    @property
    def first(self) -> bool:
        """Whether this process does what is to be done by one only."""
        return bool(self.holders) and min(self.holders) == self._holder

    @property
    def store_answers(self) -> bool:
        """Whether one of the last beats got an answer."""
        return self._clock() - self._heard < _BEATS_MISSED * self._pause_s

    def adopted(self, claim: Claim) -> bool:
        """Whether somebody has attached to a direct run, here or elsewhere, as of the last beat."""
        return (claim.key, claim.turn) in self._adopted

    async def start(self) -> None:
        """Show that this process lives, and begin to look for work. Raises StoreFailed."""
        beat = await self._store.beat(self._holder)
        self.holders = frozenset(beat.holders)
        self._heard = self._clock()
        self._tasks = [asyncio.create_task(each()) for each in (self._claim, self._live)]

    # Work

    async def _claim(self) -> None:
        while True:
            await self._slots.acquire()
            claim = None
            try:
                claim = await self._store.claim(self._holder, wait_s=_CLAIM_S)
            except StoreFailed:
                await asyncio.sleep(_AGAIN_S)
            except Exception:  # noqa: BLE001  it may pass, and without this nothing would be run
                logs.events.exception("internal error", extra={"fields": {}})
                await asyncio.sleep(_AGAIN_S)
            finally:
                if claim is None:
                    self._slots.release()
            if claim is not None:
                if claim.attempt > 1:
                    self._metrics.execution_recovered.labels().inc()
                waited_s = max(0.0, self._wall() - claim.queued_at)
                self._metrics.execution_queue.labels().observe(waited_s)
                self._begin(claim)

    def _begin(self, claim: Claim, work: Work | None = None) -> _Turn:
        """Run a turn in a task of its own. ``work`` does what it is about; left out: its pipeline
        is run."""
        log = EventLog(
            self._store,
            claim,
            events_max=self._section.events_max,
            superseded=lambda: turn.end(_Why.SUPERSEDED),
        )
        turn = _Turn(claim, log)
        self._turns.add(turn)
        self._idle.clear()
        turn.task = asyncio.create_task(self._run(turn, work or partial(self._work, claim)))
        turn.task.add_done_callback(lambda _: self._done(turn, queued=work is None))
        return turn

    def _done(self, turn: _Turn, *, queued: bool) -> None:
        self._turns.remove(turn)
        if queued:
            self._slots.release()
        if not self._turns:
            self._idle.set()

    async def direct(self, claim: Claim, work: Work) -> None:
        """Run ``work`` as the turn ``claim``, which is one of this process's; returns when its end
        is written. Who is cancelled meanwhile cancels it.

        Raises:
            GatewayError: what ``work`` raised, or that it was cancelled (409) or removed.
        """
        turn = self._begin(claim, work)
        try:
            await asyncio.shield(turn.task)
        except asyncio.CancelledError:
            turn.end(_Why.CANCELLED)
            raise
        if turn.failure is not None:
            raise turn.failure

    async def _run(self, turn: _Turn, work: Work) -> None:
        claim, log = turn.claim, turn.log
        writing = asyncio.create_task(log.run())
        turn.begun = True
        if turn.why is not None:
            turn.task.cancel()
        began = self._clock()
        status, message, found = Status.COMPLETED, None, Found()
        try:
            try:
                await self._tell_begun(turn)
                found = await work(log)
            except Exception as error:  # noqa: BLE001  told to whoever asks for the execution
                turn.failure = error
                status, message = Status.FAILED, self._message(claim, error)
            except asyncio.CancelledError:
                if turn.why is not _Why.CANCELLED and not claim.direct:
                    raise
                turn.task.uncancel()
                status, message, turn.failure = self._cut(turn)
            turn.ending = True
            outcome = _Outcome(status, self._clock() - began, message, found)
            await self._end(turn, outcome)
        except asyncio.CancelledError:
            if turn.why is not _Why.SUPERSEDED and not claim.direct:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
                with suppress(StoreFailed, Superseded):
                    await self._put_back(turn)
        except Superseded:
            turn.failure = unknown(claim.key)
        finally:
            writing.cancel()

    async def _put_back(self, turn: _Turn) -> None:
        """Let others run it; who watches is told that it will begin again."""
        claim = turn.claim
        if not turn.ending:
            await turn.log.last(status_event(claim.key, Status.QUEUED), Status.QUEUED)
        await self._store.release(claim)

    def _cut(self, turn: _Turn) -> tuple[Status, str | None, GatewayError]:
        """What becomes of a run that was ended from outside."""
        if turn.why is _Why.CANCELLED:
            cancelled = RequestRejected("the execution was cancelled", code=Code.CONFLICT)
            return Status.CANCELLED, None, cancelled
        if turn.why is _Why.SUPERSEDED:
            raise Superseded
        stopping = ShuttingDown("the gateway is shutting down", retry_after_s=1.0)
        return Status.FAILED, stopping.message, stopping

    def _message(self, claim: Claim, error: Exception) -> str:
        if isinstance(error, GatewayError):
            return error.message
        if not claim.direct:  # else whoever asked tells and logs it
            fields = {"execution": claim.key.id}
            logs.events.exception("internal error", extra={"fields": fields})
        return "the gateway failed; its log says why"

    async def _told(self, turn: _Turn) -> Telling:
        """Asked of the store once in a turn."""
        if turn.telling is None:
            key = turn.claim.key
            turn.telling = await insist(partial(self._telling, key), key)
        return turn.telling

    async def _tell_begun(self, turn: _Turn) -> None:
        claim = turn.claim
        telling = partial(await self._told(turn), HookEvent.STATUS_CHANGE, Status.RUNNING)
        turn.log.tell(
            status_event(claim.key, Status.RUNNING, attempt=claim.attempt),
            Status.RUNNING,
            await insist(telling, claim.key),
        )

    async def _work(self, claim: Claim, log: EventLog) -> Found:
        """Run the pipeline, with every event into the log. Raises GatewayError."""
        asked = orders.read(claim.payload, claim.media)
        request, ready = await insist(partial(self.prepared, asked, claim.key), claim.key)
        site = self._site()
        site.users += 1
        try:
            route = site.routes.get(request.pipeline)
            if route is None:
                raise RequestRejected(f'there is no pipeline "{request.pipeline}" any more')
            with apart(site.tracing, request.headers, route.name, claim.key.id) as trace:
                run = Run(route, request, Mode.EXECUTE_ASYNC, site.services, trace=trace)
                async with aclosing(run.stream(Dialect.CAMBRION)) as events:
                    async for event in events:
                        log.add(event_json(event))
                        if log.full:
                            await log.room()
                return Found(await run.found(), ready or request.idempotent)
        finally:
            site.leave()

    async def prepared(self, request: Request, key: Key) -> tuple[Request, bool]:
        """``request`` with what its execution holds, and whether that is its observation: then
        what the run comes to has that in it. Raises StoreFailed."""
        kept: tuple[Media, ...] = ()
        if await self._store.has_media(key):
            kept = await self._store.all_media(key)
        request = replace(request, media=(*kept, *request.media), execution_id=key.id)
        if request.media or request.text or request.observation is not None:
            return request, False
        observation = await self._store.observation(key)
        if observation is None:
            raise RequestRejected(
                f'nothing to run on: the execution "{key.id}" holds no media and no observation'
            )
        return replace(request, observation=observation), True

    async def _end(self, turn: _Turn, outcome: _Outcome) -> None:
        try:
            await turn.log.finish(await self._ending(turn, outcome))
        except RequestRejected as error:  # what it found does not go with what is there
            turn.failure = error
            outcome = _Outcome(Status.FAILED, outcome.duration_s, error.message)
            await turn.log.finish(await self._ending(turn, outcome))
        except (StoreFailed, Superseded):
            raise
        except Exception as error:  # noqa: BLE001  else it would run for ever
            turn.failure = error
            message = self._message(turn.claim, error)
            outcome = _Outcome(Status.FAILED, outcome.duration_s, message)
            await turn.log.finish(self._untold(turn.claim.key, outcome))
        self._metrics.execution_duration.labels(outcome.status).observe(outcome.duration_s)

    async def _ending(self, turn: _Turn, outcome: _Outcome) -> Ending:
        key, status, observation = turn.claim.key, outcome.status, outcome.found.observation
        told = partial(await self._told(turn), status=status, observation=observation)
        deliveries = await insist(partial(told, HookEvent.STATUS_CHANGE), key)
        if observation is not None:
            deliveries += await insist(partial(told, HookEvent.OBSERVATION_UPDATE), key)
        return replace(self._untold(key, outcome), deliveries=deliveries)

    def _untold(self, key: Key, outcome: _Outcome) -> Ending:
        """The end of a run, of which no webhook is told."""
        return Ending(
            status=outcome.status,
            completed_at=self._wall(),
            duration_s=outcome.duration_s,
            message=outcome.message,
            observation=outcome.found.observation,
            replace=outcome.found.replace,
            events=(status_event(key, outcome.status, message=outcome.message),),
        )

    def cancel(self, key: Key) -> None:
        """Give up the runs of an execution that run here, as it was cancelled in the store."""
        for turn in self._turns:
            if turn.claim.key == key:
                turn.end(_Why.CANCELLED)

    def drop(self, key: Key) -> None:
        """Give up the runs of an execution that was removed."""
        for turn in self._turns:
            if turn.claim.key == key:
                turn.end(_Why.SUPERSEDED)

    # Life

    async def _live(self) -> None:
        while True:
            try:
                await self._beat()
            except StoreFailed:
                pass  # the others fail so too, and nobody is taken for dead
            except Exception:  # noqa: BLE001  it may pass; who stands still is taken for dead
                logs.events.exception("internal error", extra={"fields": {}})
            await asyncio.sleep(self._pause_s)

    async def _beat(self) -> None:
        running = list(self._turns)
        beat = await self._store.beat(self._holder)
        self.holders, self._adopted = frozenset(beat.holders), beat.adopted
        self._heard = self._clock()
        for turn in running:
            if turn not in self._turns:
                continue
            if turn.place not in beat.held:
                turn.end(_Why.SUPERSEDED)
            elif turn.place in beat.cancelled:
                turn.end(_Why.CANCELLED)
        others = {name: beats for name, beats in beat.holders.items() if name != self._holder}
        for dead, beats in self._pulse.look(others, self._clock()):
            # Reading what it was running may take longer than a beat may be late.
            self._aside(self._take_over(dead, beats))

    def _aside(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._burying.add(task)
        task.add_done_callback(self._burying.discard)

    async def _take_over(self, dead: str, beats: int) -> None:
        try:
            lost = await self._store.take_over(
                dead, beats, self._holder, attempts_max=self._section.attempts_max
            )
        except StoreFailed:
            return  # the next beat finds it dead again
        if lost is not None:
            logs.events.warning("took over from a replica that has died")
            for claim in lost:
                self._aside(self._bury(claim))

    async def _bury(self, claim: Claim) -> None:
        """End a run that is not to be begun again."""
        if claim.direct:
            status, message = Status.FAILED, "the gateway that answered ended while it ran"
        elif claim.attempt >= self._section.attempts_max:
            status = Status.FAILED
            message = f"given up: {claim.attempt} times the gateway that ran it ended meanwhile"
        else:
            status, message = Status.CANCELLED, None
        log = EventLog(
            self._store, claim, events_max=self._section.events_max, superseded=lambda: None
        )
        with suppress(Superseded):
            await self._end(_Turn(claim, log), _Outcome(status, 0.0, message))

    # The end

    async def stop(self) -> None:
        """Take on no more work."""
        if self._tasks:
            self._tasks[0].cancel()
            await asyncio.wait(self._tasks[:1])

    async def drain(self, within_s: float) -> None:
        """Return when nothing runs here any more, after ``within_s`` seconds at the latest."""
        if self._turns:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._idle.wait()

    async def close(self) -> None:
        """Put back into the queue what still runs, and be gone."""
        await self.stop()
        for turn in self._turns:
            turn.end(_Why.RELEASED)
        with suppress(TimeoutError, StoreFailed):
            async with asyncio.timeout(_RELEASE_S):
                if self._turns:
                    await self._idle.wait()
                for task in self._tasks:  # a beat behind the leaving would make it known again
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await self._store.leave(self._holder)
        tasks = (*self._tasks, *self._burying)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
