"""The deliveries to webhooks that one process makes.

A message stays in the store until the other side has it, it was given up, or its execution or
webhook was removed. It may arrive more than once: what was sent just before a process died is sent
again by another one.

Owns: when a message is sent, and again; what becomes of it; how many are sent at once.
Does not know: which webhooks are told of what (``hook_definitions``), what a message looks like,
how it is sent; that its holder is alive, of which whoever made it sees to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, Final

from msgspec.structs import replace

from gateway import logs
from gateway.errors import GatewayError, Overloaded, StoreFailed
from gateway.executions.bodies import no_observation
from gateway.executions.hook_addresses import Lookup, Names
from gateway.executions.hook_definitions import definition_of, disabled_hook
from gateway.executions.hook_delivery import Courier, Meaning
from gateway.executions.hook_payloads import AsJson, Evaluate, body_of
from gateway.executions.hook_turns import Turns
from gateway.executions.records import Delivery, Hook
from gateway.executions.store import Store
from gateway.metrics import HookOutcome, Metrics
from gateway.sections import HooksConfig

#: How long before each attempt is waited, in seconds, as Standard Webhooks advises; the last one
#: stands for all that follow. ``retry_s`` takes the place of the 5, and the others grow with it.
SCHEDULE_S: Final = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
#: By how much a wait is longer or shorter at random, so that what failed together is not sent
#: together again.
_JITTER: Final = 0.1
#: How often is asked what is due while nothing tells of it, seconds.
_ASK_S: Final = 1.0
#: How long a store that failed, or whatever has no room, is left alone, seconds.
_AGAIN_S: Final = 1.0
#: ``put_hook`` counts the others only: one that is there may always be kept.
_NO_LIMIT: Final = 2**31

#: What is to be written of a delivery.
_Note = Callable[[], Awaitable[None]]


class HookLoop:
    """Delivers what is due, from ``start`` to ``close``.

    Args:
        holder: in whose name deliveries are claimed. It must be known to be alive (``Store.beat``)
            until ``close`` has returned, and be forgotten only then.
        as_json: makes the JSON view of an observation.
        evaluate: evaluates a webhook's own transform over an observation, bounded.
        clock: monotonic seconds.
        wall: Unix seconds.
        lookup: finds the addresses of a host; left out: as this machine does.
    """

    def __init__(
        self,
        store: Store,
        section: HooksConfig,
        *,
        holder: str,
        as_json: AsJson,
        evaluate: Evaluate,
        metrics: Metrics,
        clock: Callable[[], float],
        wall: Callable[[], float],
        lookup: Lookup | None = None,
        random: Random | None = None,
    ) -> None:
        self._store = store
        self._section = section
        self._holder = holder
        self._as_json = as_json
        self._evaluate = evaluate
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._courier = Courier(section, lookup=lookup or Names(), wall=wall)
        self._random = random or Random()  # noqa: S311
        self._turns = Turns(section.concurrency)
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._deliveries: set[asyncio.Task[None]] = set()
        self._attempts: set[asyncio.Timeout] = set()

    def start(self) -> None:
        """Begin."""
        self._main = asyncio.create_task(self._run())

    def nudge(self) -> None:
        """Look at once for what is due."""
        self._news.set()

    async def close(self, within_s: float = 5.0) -> None:
        """Take on nothing more; what is being sent has ``within_s`` seconds to arrive and is put
        back then, to be sent again by whoever goes on."""
        self._closing.set()
        self._news.set()
        if self._main is not None:
            await self._main
        if self._deliveries:
            await asyncio.wait(self._deliveries, timeout=within_s)
        for attempt in self._attempts:
            attempt.reschedule(0.0)
        if self._deliveries:
            await asyncio.wait(self._deliveries)
        await self._courier.close()

    async def _run(self) -> None:
        while not self._closing.is_set():
            self._news.clear()
            room = self._section.concurrency - len(self._deliveries)
            try:
                due = await self._store.due(self._holder, self._wall(), limit=room) if room else []
            except StoreFailed:
                await self._pause(_AGAIN_S)
                continue
            except Exception:  # noqa: BLE001  a fault may pass, and nobody else would go on
                logs.events.exception("internal error", extra={"fields": {}})
                await self._pause(_AGAIN_S)
                continue
            for delivery in due:
                task = asyncio.create_task(self._deliver(delivery))
                self._deliveries.add(task)
                task.add_done_callback(self._done)
            if len(due) < room or not room:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_ASK_S):
                        await self._news.wait()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._deliveries.discard(task)
        self._news.set()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _deliver(self, delivery: Delivery) -> None:
        place = (delivery.key.owner, delivery.hook_id)
        wait_s = self._turns.begin(place, self._clock())
        if wait_s > 0:
            await self._write(self._later(delivery, wait_s))
            return
        began, good = self._clock(), False
        note = self._later(delivery, 0.0)
        try:
            async with asyncio.timeout(None) as attempt:
                self._attempts.add(attempt)
                good, note = await self._attempt(delivery)
        except (StoreFailed, Overloaded):
            note = self._later(delivery, _AGAIN_S)
        except Exception:  # noqa: BLE001  it must not stay in these hands for ever
            if not attempt.expired():  # else this process ends, and whoever goes on sends it again
                logs.events.exception("internal error", extra={"fields": _fields(delivery)})
                note = self._failed(delivery, "the gateway failed")
        finally:
            self._attempts.discard(attempt)
            self._turns.end(place, self._clock() - began, good=good)
        await self._write(note)

    async def _attempt(self, delivery: Delivery) -> tuple[bool, _Note]:
        """Send it. Returns whether it arrived, and what is to be written of it."""
        key = delivery.key
        done = partial(self._store.delivered, delivery)
        hook = await self._store.hook(key.owner, delivery.hook_id)
        if hook is None:
            return True, done
        definition = definition_of(hook)
        if not definition.enabled:
            self._count(HookOutcome.DISABLED)
            return True, done
        observation = delivery.observation or await self._store.observation(key)
        if observation is None:
            if await self._store.get(key) is None:
                return True, done
            observation = no_observation(key.id)
        try:
            body = await body_of(
                definition,
                observation,
                partial(self._store.all_media, key),
                as_json=self._as_json,
                evaluate=self._evaluate,
            )
        except (StoreFailed, Overloaded):
            raise
        except GatewayError as error:
            return False, self._failed(delivery, f"its payload cannot be made ({error.code})")
        began = self._clock()
        answer = await self._courier.send(definition, delivery, body)
        self._metrics.hook_duration.labels().observe(self._clock() - began)
        match answer.meaning:
            case Meaning.DELIVERED:
                self._count(HookOutcome.DELIVERED)
                return True, done
            case Meaning.FAILED:
                return False, self._failed(delivery, answer.why, answer.retry_after_s)
            case Meaning.GONE:
                await self._disable(hook, delivery)
                return True, done
            case Meaning.REFUSED:
                self._count(HookOutcome.REFUSED)
                self._log("webhook refused", delivery, answer.why)
                return True, done

    def _failed(self, delivery: Delivery, why: str, retry_after_s: float = 0.0) -> _Note:
        """What follows a failure: another attempt, or none."""
        attempts = delivery.attempt + 1
        if attempts >= self._section.attempts_max:
            self._count(HookOutcome.GIVEN_UP)
            self._log("webhook given up", delivery, why)
            return partial(self._store.delivered, delivery)
        self._count(HookOutcome.FAILED)
        self._log("webhook failed", delivery, why)
        scheduled_s = SCHEDULE_S[min(attempts, len(SCHEDULE_S) - 1)] * self._section.retry_s / 5
        jittered_s = scheduled_s * self._random.uniform(1 - _JITTER, 1 + _JITTER)
        return self._later(replace(delivery, attempt=attempts), max(jittered_s, retry_after_s))

    def _later(self, delivery: Delivery, wait_s: float) -> _Note:
        at = self._wall() + wait_s
        return partial(self._store.put_off, replace(delivery, due_at=at, delay_s=wait_s))

    async def _disable(self, hook: Hook, delivery: Delivery) -> None:
        """The other side wants nothing any more: that is for its owner to see, and to change."""
        now = await self._store.hook(hook.owner, hook.id)
        if now is not None and now.definition == hook.definition:
            await self._store.put_hook(disabled_hook(hook), hooks_max=_NO_LIMIT)
        self._count(HookOutcome.DISABLED)
        self._log("webhook disabled", delivery, "answered 410")

    async def _write(self, note: _Note) -> None:
        """Have it written, however long the store may be away; only while this process ends it is
        left to whoever takes over what this holder had."""
        while True:
            try:
                await note()
                return
            except StoreFailed:
                if self._closing.is_set():
                    return
                await self._pause(_AGAIN_S)

    def _count(self, outcome: HookOutcome) -> None:
        self._metrics.hook_deliveries.labels(outcome).inc()

    def _log(self, event: str, delivery: Delivery, why: str) -> None:
        fields = _fields(delivery) | {"attempt": delivery.attempt + 1, "why": why}
        logs.events.warning(event, extra={"fields": fields})


def _fields(delivery: Delivery) -> dict[str, Any]:
    return {
        "hook": delivery.hook_id,
        "delivery": delivery.id,
        "execution": delivery.key.id,
        "hook_event": delivery.event,
    }
