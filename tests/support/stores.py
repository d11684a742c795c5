"""Stores of executions, each kind as its replicas would open it, and short words for what is asked.

Owns: which kinds there are, how handles on the same data are opened and closed again.
Does not know: what a store promises.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from gateway.executions.records import (
    BEGINNING,
    Claim,
    Delivery,
    Ending,
    EventId,
    HookEvent,
    Key,
    New,
    Status,
)
from gateway.executions.redis import RedisStore
from gateway.executions.sqlite import SqliteStore
from gateway.executions.store import Store
from gateway.model import Media
from tests.support.redis_server import redis_server

#: Makes a handle on data that all handles of one such function share, as another replica would.
Maker = Callable[[], Store]
#: The same, opened; it is closed with the rest.
Opener = Callable[[], Awaitable[Store]]

KEY: Final = Key("tenant", "execution")
#: One of each kind of character that an ID may have, as long as one may be.
LONGEST: Final = "A9z._-" + "x" * 122
NOON: Final = 1_700_000_000.0
EVENTS_MAX: Final = 1000


@asynccontextmanager
async def _sqlite(folder: Path) -> AsyncIterator[Maker]:
    yield lambda: SqliteStore(folder / "executions.db")


@asynccontextmanager
async def _redis(folder: Path) -> AsyncIterator[Maker]:
    async with redis_server(folder) as server:
        yield lambda: RedisStore(server.url)


STORES: Final[dict[str, Callable[[Path], AbstractAsyncContextManager[Maker]]]] = {
    "sqlite": _sqlite,
    "redis": _redis,
}


@asynccontextmanager
async def opened_store(kind: str, folder: Path) -> AsyncIterator[Opener]:
    """Data of its own for a store of ``kind``; yields what opens a handle on it."""
    async with STORES[kind](folder) as made, AsyncExitStack() as handles:

        async def another() -> Store:
            store = made()
            await store.open()
            handles.push_async_callback(store.close)
            return store

        yield another


def new(
    key: Key = KEY, created_at: float = NOON, *, tag: str | None = None, transient: bool = False
) -> New:
    """An execution to be made."""
    return New(key, created_at, tag=tag, transient=transient)


async def submitted(
    store: Store,
    run_id: str = "run-1",
    key: Key = KEY,
    *,
    payload: bytes = b"payload",
    media: Sequence[Media] = (),
    deliveries: Sequence[Delivery] = (),
    transient: bool = False,
    runs_max: int = 1000,
) -> None:
    """Queue a run, of a new execution if need be."""
    assert await store.submit(
        key,
        run_id,
        payload,
        media,
        queued_at=NOON,
        new=new(key, transient=transient),
        deliveries=deliveries,
        runs_max=runs_max,
    )


async def claimed(store: Store, holder: str = "holder", *, wait_s: float = 0.0) -> Claim:
    """The next run; it is an error if there is none."""
    claim = await store.claim(holder, wait_s=wait_s)
    assert claim is not None
    return claim


async def begun(
    store: Store, run_id: str = "run-1", key: Key = KEY, holder: str = "holder"
) -> Claim:
    """A direct run, of a new execution if need be."""
    claim = await store.begin(key, run_id, holder, queued_at=NOON, new=new(key))
    assert claim is not None
    return claim


async def wrote(
    store: Store, claim: Claim, first: int, *events: bytes, status: Status | None = None
) -> None:
    """Add events."""
    await store.write(claim, first, events, status=status, events_max=EVENTS_MAX)


async def finished(store: Store, claim: Claim, first: int = 1, end: Ending | None = None) -> None:
    """End a run, as one that went well where nothing else is said."""
    await store.finish(claim, first, end or ending(), events_max=EVENTS_MAX)


def ending(
    status: Status = Status.COMPLETED,
    *events: bytes,
    at: float = NOON + 10,
    message: str | None = None,
    observation: bytes | None = None,
    replace: bool = False,
    deliveries: Sequence[Delivery] = (),
) -> Ending:
    """How a run ended, after two seconds."""
    return Ending(
        status,
        at,
        2.0,
        message=message,
        observation=observation,
        replace=replace,
        events=events,
        deliveries=tuple(deliveries),
    )


def delivery(
    delivery_id: str = "message-1",
    *,
    key: Key = KEY,
    hook_id: str = "hook-1",
    due_at: float = NOON,
    delay_s: float = 0.0,
) -> Delivery:
    """A message to a webhook."""
    return Delivery(
        delivery_id,
        hook_id,
        key,
        HookEvent.STATUS_CHANGE,
        Status.COMPLETED,
        NOON,
        due_at=due_at,
        delay_s=delay_s,
    )


async def status(store: Store, key: Key = KEY) -> Status | None:
    """What the execution's status is; it is an error if there is no such execution."""
    found = await store.get(key)
    assert found is not None
    return found.status


async def texts(store: Store, key: Key = KEY, after: EventId = BEGINNING) -> list[bytes]:
    """The events behind ``after``."""
    page = await store.events(key, after)
    assert page is not None
    return [event.text for event in page.events]
