"""Executions as the gateway's clients have them: what is begun, told, cancelled and removed.

Owns: what happens together when a client asks for something, whichever replica it asks.
Does not know: HTTP, the forms of requests and answers, where anything is kept.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Final

from gateway import logs
from gateway.dialects.events import event_json
from gateway.errors import RequestRejected, StoreFailed
from gateway.executions import orders
from gateway.executions.eventlog import EventLog
from gateway.executions.feeds import Feeds, Piece
from gateway.executions.hook_definitions import deliveries_for
from gateway.executions.records import (
    Claim,
    Delivery,
    Ending,
    EventId,
    HookEvent,
    Key,
    Logged,
    New,
    Status,
    unknown,
)
from gateway.executions.runner import Found, Runner, Telling
from gateway.executions.store import Store
from gateway.executions.telling import status_event
from gateway.metrics import Dialect, Metrics
from gateway.model import Request, Result
from gateway.pipeline import Run
from gateway.section import DAY_S
from gateway.sections import ExecutionsConfig
from gateway.site import Site

#: How often the store is asked how much there is in it, and rid of what is too old, seconds.
_COUNT_S: Final = 5.0
#: How often it is looked whether the store answers, seconds.
_LOOK_S: Final = 1.0
_EXPIRE_S: Final = 60.0
#: The least that is left of a transient execution's events for those who watch it, seconds.
_LINGER_S: Final = 60.0
#: How long a direct call's answer may wait to be written down, seconds.
_RECORD_S: Final = 1.0
#: So many events may wait for the client of a direct stream before its run waits for it.
_AHEAD: Final = 64


class Executions:
    """Everything about executions in one process, from ``start`` to ``close``.

    Args:
        holder: the name of this process among all that use the store, never used before.
        site: the configuration that is live.
        nudge: called when there may be something to deliver to webhooks.
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
        nudge: Callable[[], None],
        metrics: Metrics,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.store = store
        self.section = section
        self._holder = holder
        self._nudge = nudge
        self._metrics = metrics
        self._wall = wall
        self._clock = clock
        self._feeds = Feeds(store)
        self._runner = Runner(
            store,
            section,
            holder=holder,
            site=site,
            telling=self._telling,
            metrics=metrics,
            clock=clock,
            wall=wall,
        )
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to run what is queued. Raises StoreFailed."""
        self._metrics.watch_executions()
        await self._runner.start()
        self._keep(asyncio.create_task(self._look()))
        self._keep(asyncio.create_task(self._regularly(_COUNT_S, self._count)))
        self._keep(asyncio.create_task(self._regularly(_EXPIRE_S, self._expire)))

    async def stop(self) -> None:
        """Take on no queued runs any more, and let go of who watches: both go on elsewhere."""
        self._feeds.stop()
        await self._runner.stop()

    async def drain(self, within_s: float) -> None:
        """Return when no queued run is run here; after ``within_s`` seconds at the latest."""
        await self._runner.drain(within_s)

    async def close(self) -> None:
        """Put back what still runs, for others to run. The store stays open."""
        self._feeds.stop()
        await self._runner.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Runs

    async def submit(self, request: Request, key: Key, new: New | None) -> None:
        """Queue a run of ``request`` on the execution; ``new``: make it first, if there is none.

        Raises:
            RequestRejected: there is no such execution.
            Overloaded: too many are queued.
            StoreFailed: it is not known to be queued.
        """
        about = (HookEvent.STATUS_CHANGE, Status.QUEUED)
        if new is None:
            deliveries = await self._deliveries(key, *about)
        else:
            deliveries = await self._messages(key, new.hook_ids, *about)
        queued = await self.store.submit(
            key,
            uuid.uuid4().hex,
            orders.written(request),
            request.media,
            queued_at=self._wall(),
            new=new,
            deliveries=deliveries,
            runs_max=self.section.queue_max,
        )
        if not queued:
            raise unknown(key)
        if deliveries:
            self._nudge()

    async def prepared(self, request: Request, key: Key) -> tuple[Request, bool]:
        """``request`` as it is run on the execution, for ``call`` and ``stream``: with its media
        and, where there is nothing else to run on, its observation. And whether that is so.

        Raises StoreFailed, and RequestRejected where there is nothing to run on."""
        return await self._runner.prepared(request, key)

    async def call(self, run: Run, key: Key, *, replace: bool) -> Result:
        """Run a pipeline on the execution, keep what it finds there, and answer with all that is
        there now. ``replace``: what it finds takes the place of what is the same.

        Raises:
            GatewayError: the run's own failure, or that there is no such execution.
        """
        if run.request.transform is not None:
            await run.services.sandbox.check_syntax(run.request.transform)
        claim = await self.begin(key, None)
        found = b""

        async def work(log: EventLog) -> Found:
            nonlocal found
            found = await run.perform()
            return Found(found, replace)

        await self._runner.direct(claim, work)
        self._nudge()
        observation = await self.store.observation(key)
        # Where the execution is transient, nothing is there any more but what its caller gets now.
        return await run.result_of(key.id, found if observation is None else observation)

    async def record(self, new: New, observation: bytes, duration_s: float) -> None:
        """Keep what a direct call that has ended has found. Its caller has the answer whatever
        becomes of this: where it cannot be kept, the log says so."""
        ending = Ending(
            Status.COMPLETED,
            self._wall(),
            duration_s,
            observation=observation,
            events=(status_event(new.key, Status.COMPLETED),),
        )
        why = "the store does not answer"
        try:
            if self.answers:
                async with asyncio.timeout(_RECORD_S):
                    await self.store.record(new, ending)
                return
        except (StoreFailed, RequestRejected) as error:
            why = error.message
        except TimeoutError:
            pass
        fields = {"execution": new.key.id, "error": why}
        logs.events.warning("a direct call was not kept", extra={"fields": fields})

    @property
    def answers(self) -> bool:
        """Whether the store answered lately. What can do without it need not wait for it."""
        return self._runner.store_answers

    async def begin(self, key: Key, new: New | None) -> Claim:
        """Begin a direct run, for ``stream``; ``new``: make its execution first, if there is none.

        Raises:
            RequestRejected: there is no such execution.
            StoreFailed: it has not begun.
        """
        run_id, now = uuid.uuid4().hex, self._wall()
        claim = await self.store.begin(key, run_id, self._holder, queued_at=now, new=new)
        if claim is None:
            raise unknown(key)
        return claim

    async def stream(
        self, run: Run, claim: Claim, site: Site, *, dialect: Dialect, replace: bool
    ) -> AsyncGenerator[Logged]:
        """As ``call``, streamed: the run's events with the IDs that they have in its log.

        Where the generator is closed early, the run goes on for ``resume_s``, and longer while
        somebody watches it here. ``site``: what the run is made of, in use until it has ended.

        Raises as ``call`` does; where anything was yielded before, an event has told of it.
        """
        run.apart = True
        passing: asyncio.Queue[Logged | None] = asyncio.Queue(_AHEAD)
        attached, failure, whole = True, None, False

        async def work(log: EventLog) -> Found:
            nonlocal failure, whole
            try:
                async with aclosing(run.stream(dialect)) as events:
                    async for event in events:
                        text = event_json(event)
                        told = Logged(log.add(text), text)
                        if log.full and not self.answers:
                            log.tear()  # rather than keep its client waiting
                        elif log.full:
                            await log.room()
                        if attached:
                            await passing.put(told)
                observation = None if dialect is Dialect.PUPAU else await run.found()
                whole = True
            except Exception as error:
                failure = error
                raise
            finally:
                if attached:
                    await passing.put(None)
            return Found(observation, replace)

        site.users += 1
        task = asyncio.create_task(self._runner.direct(claim, work))
        task.add_done_callback(lambda _: site.leave())
        try:
            while (told := await passing.get()) is not None:
                yield told
            # How it ended can be read when its stream has, if the store is there to keep it.
            wait_s = _RECORD_S if self.answers else 0.0
            await asyncio.wait((task,), timeout=wait_s if whole or failure is not None else None)
            if failure is not None:
                raise failure
            if task.done():
                await task
        finally:
            attached = False
            while not passing.empty():  # whoever waits to put something there goes on
                passing.get_nowait()
            self._keep(asyncio.create_task(self._outlive(task, claim)))
            self._nudge()

    async def _outlive(self, task: asyncio.Task[None], claim: Claim) -> None:
        """Let a run whose client has gone go on for ``resume_s``; where anybody has attached to it
        by then, to its end."""
        await asyncio.wait((task,), timeout=self.section.resume_s)
        if not task.done() and self.section.resume_s:
            await asyncio.wait((task,), timeout=_LOOK_S)  # until then a beat has told of that
        if self._runner.adopted(claim):
            await asyncio.wait((task,))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    # What else clients do

    async def attach(self, key: Key, after: EventId) -> AsyncGenerator[tuple[Piece, ...]]:
        """See ``Feeds.watch``. A direct run goes on to its end then, though its client may go."""
        if after.turn:
            self._metrics.resumed_streams.labels().inc()
        if self.section.resume_s and self.answers:
            with suppress(StoreFailed):  # which the watching will tell of, if it lasts
                await self.store.adopt(key)
        return self._feeds.watch(key, after)

    async def cancel(self, key: Key) -> bool:
        """Have every run of the execution given up, wherever it runs. ``False``: there is none."""
        deliveries = await self._deliveries(key, HookEvent.STATUS_CHANGE, Status.CANCELLED)
        if not await self.store.cancel(key, self._wall(), deliveries):
            return False
        self._runner.cancel(key)
        self._nudge()
        return True

    async def delete(self, key: Key) -> bool:
        """Remove the execution and all that it holds; its runs are given up. ``False``: there is
        none."""
        if not await self.store.delete(key):
            return False
        self._runner.drop(key)
        return True

    async def merge(self, key: Key, observation: bytes, *, replace: bool) -> bool:
        """Add to the execution's observation. ``False``: there is no such execution. Raises
        RequestRejected where the two do not go together."""
        deliveries = await self._deliveries(key, HookEvent.OBSERVATION_UPDATE, None)
        merged = await self.store.merge(key, observation, replace=replace, deliveries=deliveries)
        if deliveries:
            self._nudge()
        return merged

    async def submit_event(self, key: Key) -> bool:
        """Tell the execution's webhooks that it was submitted. ``False``: there is none."""
        execution = await self.store.get(key)
        if execution is None:
            return False
        about = (HookEvent.SUBMIT, execution.status)
        deliveries = await self._messages(key, execution.hook_ids, *about)
        if deliveries:
            await self.store.add_deliveries(deliveries)
            self._nudge()
        return True

    async def _telling(self, key: Key) -> Telling:
        execution = await self.store.get(key)
        if execution is None:
            return partial(self._messages, key, (), transient=False)
        return partial(self._messages, key, execution.hook_ids, transient=execution.transient)

    async def _deliveries(
        self, key: Key, event: HookEvent, status: Status | None
    ) -> tuple[Delivery, ...]:
        return await (await self._telling(key))(event, status)

    async def _messages(
        self,
        key: Key,
        hook_ids: tuple[str, ...],
        event: HookEvent,
        status: Status | None,
        observation: bytes | None = None,
        *,
        transient: bool = False,
    ) -> tuple[Delivery, ...]:
        """The messages to the webhooks ``hook_ids``. An observation goes with them only where the
        execution will keep none."""
        if not hook_ids:
            return ()
        found = [await self.store.hook(key.owner, each) for each in hook_ids]
        hooks = [hook for hook in found if hook is not None]
        given = observation if transient else None
        return deliveries_for(hooks, key, event, status, now=self._wall(), observation=given)

    # Housekeeping

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        """Say when the store does not answer any more, and when it does again."""
        before = True
        while True:
            up = self.answers
            self._metrics.store_up.labels().set(float(up))
            if up is not before:
                told = logs.events.info if up else logs.events.warning
                event = "the store answers again" if up else "the store does not answer"
                told(event, extra={"fields": {"store": self.section.store}})
            before = up
            await asyncio.sleep(_LOOK_S)

    async def _regularly(self, every_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """Have something done again and again, whatever becomes of it once."""
        while True:
            try:
                await work()
            except StoreFailed:
                pass  # it is told of elsewhere
            except Exception:  # noqa: BLE001  it may pass, and nobody else would go on
                logs.events.exception("internal error", extra={"fields": {}})
            await asyncio.sleep(every_s)

    async def _count(self) -> None:
        counts, log_bytes, waited_s = dict.fromkeys(Status, 0), 0, 0.0
        try:
            if self._runner.first:
                counts |= await self.store.counts()
                log_bytes = await self.store.log_bytes()
                if (queued_at := await self.store.next_queued_at()) is not None:
                    waited_s = max(0.0, self._wall() - queued_at)
        finally:
            for status, count in counts.items():
                self._metrics.executions.labels(status).set(count)
            self._metrics.event_log_bytes.labels().set(log_bytes)
            self._metrics.oldest_queued.labels().set(waited_s)

    async def _expire(self) -> None:
        now = self._wall()
        before = now - self.section.retention_days * DAY_S
        lingered = now - max(self.section.resume_s, _LINGER_S)
        while self._runner.first and await self.store.expire(before, lingered):
            pass  # some hundreds each time
