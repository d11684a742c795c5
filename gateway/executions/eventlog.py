"""The writing of one turn's events to its execution's log.

Owns: their numbers and their order; that what comes while a write is under way goes with the next;
that a store which fails is asked again.
Does not know: what an event says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from msgspec.structs import replace

from gateway import logs
from gateway.errors import StoreFailed
from gateway.executions.records import Claim, Delivery, Ending, EventId, Key, Status
from gateway.executions.store import Store, Superseded

#: So much may wait to be written before the run that says it has to wait.
_WAITING_BYTES: Final = 1024 * 1024
#: What one write takes at most.
_BATCH: Final = 512
#: How long to wait before a store that failed is asked again, seconds: the first time, at most.
_AGAIN_S: Final = 0.1
_AGAIN_S_MAX: Final = 2.0
T = TypeVar("T")


class EventLog:
    """The log of one turn. ``run`` writes, in a task of its own, until it is cancelled.

    Args:
        superseded: called when the turn turns out to be over.
    """

    def __init__(
        self, store: Store, claim: Claim, *, events_max: int, superseded: Callable[[], None]
    ) -> None:
        self._store = store
        self._claim = claim
        self._events_max = events_max
        self._superseded = superseded
        self._waiting: list[bytes] = []
        self._first = 1
        self._bytes = 0
        self._status: Status | None = None
        self._deliveries: tuple[Delivery, ...] = ()
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._writing = asyncio.Lock()
        self._torn = False

    def add(self, text: bytes) -> EventId:
        """Have an event written; returns its ID."""
        if self._torn:
            self._first += 1
            return EventId(self._claim.turn, self._first - 1)
        self._waiting.append(text)
        self._bytes += len(text)
        self._more.set()
        return EventId(self._claim.turn, self._first + len(self._waiting) - 1)

    def tear(self) -> None:
        """Write nothing more but the end, and with that remove what was written: nobody is to
        read a log with a hole in it. Only numbers are still given out."""
        self._torn = True
        self._first += len(self._waiting)
        self._waiting, self._bytes = [], 0
        self._more.clear()

    def tell(self, text: bytes, status: Status, deliveries: Sequence[Delivery]) -> EventId:
        """As ``add``, with what the execution's status is from then on."""
        self._status, self._deliveries = status, (*self._deliveries, *deliveries)
        return self.add(text)

    @property
    def full(self) -> bool:
        """Whether whoever adds should wait for ``room``."""
        return self._bytes > _WAITING_BYTES

    async def room(self) -> None:
        """Return when there is room for more."""
        while self.full:
            self._room.clear()
            await self._room.wait()

    async def run(self) -> None:
        """Write what is added, as it comes."""
        while True:
            await self._more.wait()
            try:
                async with self._writing:
                    await self._write()
            except Superseded:
                self._superseded()
                return
            except Exception:  # noqa: BLE001  whoever waits for room would wait for ever
                logs.events.exception("internal error", extra={"fields": {}})
                self.tear()
                self._room.set()

    async def _write(self) -> None:
        events = self._waiting[:_BATCH]
        status, deliveries = self._status, self._deliveries
        if events:
            write = partial(
                self._store.write,
                self._claim,
                self._first,
                events,
                status=status,
                deliveries=deliveries,
                events_max=self._events_max,
            )
            await insist(write, self._claim.key)
        if self._status is status:
            self._status = None
        self._deliveries = self._deliveries[len(deliveries) :]
        if not self._torn:
            del self._waiting[: len(events)]
            self._first += len(events)
        self._bytes = sum(map(len, self._waiting))
        if not self._waiting:
            self._more.clear()
        self._room.set()

    async def last(self, text: bytes, status: Status) -> None:
        """Write what is left and one event more, trying once; ``run`` has been cancelled.

        Raises Superseded, StoreFailed."""
        self.tell(text, status, ())
        await self._store.write(
            self._claim,
            self._first,
            self._waiting,
            status=status,
            deliveries=self._deliveries,
            events_max=self._events_max,
        )

    async def finish(self, ending: Ending) -> None:
        """Write what is left, and with it how the run ended.

        Raises:
            Superseded: the turn is over, and nothing was written.
            RequestRejected: its observation does not go with the one that is there.
        """
        async with self._writing:
            while len(self._waiting) > _BATCH:
                await self._write()
            whole = replace(
                ending,
                events=(*self._waiting, *ending.events),
                deliveries=(*self._deliveries, *ending.deliveries),
            )
            most = len(ending.events) if self._torn else self._events_max
            finish = partial(self._store.finish, self._claim, self._first, whole, events_max=most)
            try:
                await insist(finish, self._claim.key)
            except Superseded:
                if not await self._ended(self._first + len(whole.events) - 1):
                    raise
            self._waiting.clear()

    async def _ended(self, last: int) -> bool:
        """Whether the end was written although its writing was said to have failed: then its last
        event is there. Whoever takes a run over writes in a later turn."""
        before = EventId(self._claim.turn, last - 1)
        read = partial(self._store.events, self._claim.key, before, limit=1)
        page = await insist(read, self._claim.key)
        there = page.events[:1] if page is not None else ()
        return [each.id for each in there] == [EventId(self._claim.turn, last)]


async def insist(call: Callable[[], Awaitable[T]], key: Key) -> T:
    """What ``call`` of the store returns, however long the store may be away.

    Raises what ``call`` does but for StoreFailed; Superseded also where an earlier attempt, of
    which it was not known whether it happened, has ended the turn.
    """
    pause_s = _AGAIN_S
    while True:
        try:
            return await call()
        except StoreFailed as error:
            if pause_s == _AGAIN_S:
                fields = {"execution": key.id, "error": error.message}
                logs.events.warning("the store does not answer", extra={"fields": fields})
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _AGAIN_S_MAX)
