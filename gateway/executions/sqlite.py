"""Executions in a SQLite file, for any number of processes on one machine.

Owns: the contract of ``Store`` over two threads; who waits in this process for news of what.
Does not know: the tables (``sqlite_rows``, ``sqlite_runs``, ``sqlite_hooks``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from gateway.errors import StoreFailed
from gateway.executions import sqlite_hooks as hooks
from gateway.executions import sqlite_rows as rows
from gateway.executions import sqlite_runs as runs
from gateway.executions.records import (
    Beat,
    Claim,
    Delivery,
    Ending,
    EventId,
    Execution,
    Hook,
    Key,
    New,
    Page,
    Status,
)
from gateway.executions.sqlite_file import connected
from gateway.executions.sqlite_threads import Reader, Transaction, Write, Writer
from gateway.model import Media

#: What takes longer to write than others should wait for, bytes.
_HEAVY_BYTES: Final = 1024 * 1024
_AGAIN_S: Final = 1.0

T = TypeVar("T")
_Follower = tuple[EventId, asyncio.Future[None]]


class SqliteStore:
    """See ``Store``.

    Args:
        path: the file; it is made where there is none, its folder is not.
        busy_s: how long a call waits for another process that is writing, seconds.
    """

    def __init__(self, path: Path, *, busy_s: float = 3.0) -> None:
        connect = partial(connected, path, busy_s=busy_s)
        self._writer = Writer(
            "executions: writing",
            partial(connect, writes=True),
            busy_s,
            runs.worth_claiming,
            self._news,
        )
        self._reader = Reader("executions: reading", partial(connect, writes=False))
        self._followers: dict[Key, set[_Follower]] = {}
        # Whether what others have written is being looked at, and whether to look again then.
        self._looking = self._look_again = False

    async def open(self) -> None:
        """See ``Store.open``."""
        await self._writer.start()
        try:
            await self._reader.start()
        except BaseException:
            await self._writer.stop()
            raise

    async def close(self) -> None:
        """See ``Store.close``."""
        self._wake(list(self._followers))
        await self._reader.stop()
        await self._writer.stop()

    # Executions

    async def create(self, new: New) -> bool:
        """See ``Store.create``."""
        return await self._writer.ask(lambda tx: rows.create(tx, new))

    async def get(self, key: Key) -> Execution | None:
        """See ``Store.get``."""
        return await self._reader.ask(lambda db: rows.get(db, key))

    async def listed(
        self, owner: str, *, tag: str | None = None, after: str | None = None, limit: int = 100
    ) -> list[Execution]:
        """See ``Store.listed``."""
        return await self._reader.ask(lambda db: rows.listed(db, owner, tag, after, limit))

    async def delete(self, key: Key) -> bool:
        """See ``Store.delete``."""
        return await self._writer.ask(lambda tx: rows.remove(tx, key))

    # Media and observation

    async def add_media(self, key: Key, media: Media, *, media_max: int) -> bool:
        """See ``Store.add_media``."""
        return await self._writer.ask(
            lambda tx: rows.add_media(tx, key, media, media_max),
            heavy=len(media.data) > _HEAVY_BYTES,
        )

    async def media(self, key: Key, media_id: str) -> Media | None:
        """See ``Store.media``."""
        found = await self._reader.ask(lambda db: rows.media(db, key, media_id))
        return found[0] if found else None

    async def has_media(self, key: Key) -> bool:
        """See ``Store.has_media``."""
        return await self._reader.ask(lambda db: rows.has_media(db, key))

    async def all_media(self, key: Key) -> tuple[Media, ...]:
        """See ``Store.all_media``."""
        return await self._reader.ask(lambda db: rows.media(db, key))

    async def observation(self, key: Key) -> bytes | None:
        """See ``Store.observation``."""
        return await self._reader.ask(lambda db: rows.observation(db, key))

    async def merge(
        self, key: Key, observation: bytes, *, replace: bool, deliveries: Sequence[Delivery] = ()
    ) -> bool:
        """See ``Store.merge``."""

        def write(tx: Transaction) -> bool:
            found = rows.found(tx.db, key)
            if found is None:
                return False
            whole = rows.merged(tx.db, found.seq, observation, replace)
            rows.keep_observation(tx.db, found.seq, whole)
            hooks.add(tx, deliveries)
            return True

        return await self._writer.ask(write, heavy=len(observation) > _HEAVY_BYTES)

    # Runs

    async def submit(
        self,
        key: Key,
        run_id: str,
        payload: bytes,
        media: Sequence[Media],
        *,
        queued_at: float,
        new: New | None = None,
        deliveries: Sequence[Delivery] = (),
        runs_max: int,
    ) -> bool:
        """See ``Store.submit``."""

        def write(tx: Transaction) -> bool:
            return runs.submit(
                tx,
                key,
                run_id,
                payload,
                media,
                queued_at=queued_at,
                new=new,
                deliveries=deliveries,
                runs_max=runs_max,
            )

        weight = len(payload) + sum(len(each.data) for each in media)
        return await self._writer.ask(write, heavy=weight > _HEAVY_BYTES)

    async def begin(
        self, key: Key, run_id: str, holder: str, *, queued_at: float, new: New | None = None
    ) -> Claim | None:
        """See ``Store.begin``. A call that is cancelled has begun nothing, or what it has begun is
        CANCELLED."""
        return await self._handed(
            lambda tx: runs.begin(tx, key, run_id, holder, queued_at=queued_at, new=new),
            _released,
        )

    async def record(self, new: New, ending: Ending) -> None:
        """See ``Store.record``."""
        await self._writer.ask(lambda tx: runs.record(tx, new, ending), heavy=_heavy(ending))

    async def claim(self, holder: str, *, wait_s: float) -> Claim | None:
        """See ``Store.claim``."""
        answer = self._writer.ask_until(lambda tx: runs.claim(tx, holder), wait_s, _released)
        return await self._writer.handed(answer, _released)

    async def write(
        self,
        claim: Claim,
        first: int,
        events: Sequence[bytes],
        *,
        status: Status | None = None,
        deliveries: Sequence[Delivery] = (),
        events_max: int,
    ) -> None:
        """See ``Store.write``."""
        given = tuple(events)

        def write(tx: Transaction) -> None:
            runs.write(
                tx,
                claim,
                first,
                given,
                status=status,
                deliveries=deliveries,
                events_max=events_max,
            )

        await self._writer.ask(write, heavy=sum(map(len, given)) > _HEAVY_BYTES)

    async def finish(self, claim: Claim, first: int, ending: Ending, *, events_max: int) -> None:
        """See ``Store.finish``."""
        await self._writer.ask(
            lambda tx: runs.finish(tx, claim, first, ending, events_max), heavy=_heavy(ending)
        )

    async def release(self, claim: Claim) -> None:
        """See ``Store.release``."""
        await self._writer.ask(lambda tx: runs.release(tx, claim))

    async def cancel(self, key: Key, at: float, deliveries: Sequence[Delivery] = ()) -> bool:
        """See ``Store.cancel``."""
        return await self._writer.ask(lambda tx: runs.cancel(tx, key, at, deliveries))

    async def adopt(self, key: Key) -> None:
        """See ``Store.adopt``."""
        await self._writer.ask(lambda tx: runs.adopt(tx, key))

    # Who lives

    async def beat(self, holder: str) -> Beat:
        """See ``Store.beat``."""
        return await self._writer.ask(lambda tx: runs.beat(tx, holder))

    async def take_over(
        self, dead: str, beats: int, by: str, *, attempts_max: int
    ) -> tuple[Claim, ...] | None:
        """See ``Store.take_over``."""
        return await self._handed(
            lambda tx: runs.take_over(tx, dead, beats, by, attempts_max),
            lambda claims: partial(runs.hand_back, dead, beats, claims or ()),
        )

    async def leave(self, holder: str) -> None:
        """See ``Store.leave``."""
        await self._writer.ask(lambda tx: runs.leave(tx, holder))

    async def _handed(self, write: Write[T], undo: Callable[[T], Write[None]]) -> T:
        """The answer to what puts something into somebody's hands."""
        return await self._writer.handed(self._writer.ask(write, undo=undo), undo)

    # The log

    async def events(self, key: Key, after: EventId, *, limit: int = 1000) -> Page | None:
        """See ``Store.events``."""
        return await self._reader.ask(lambda db: rows.events(db, key, after, limit))

    async def news(self, key: Key, after: EventId, *, wait_s: float) -> None:
        """See ``Store.news``."""
        follower = (after, asyncio.get_running_loop().create_future())
        self._followers.setdefault(key, set()).add(follower)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    # Who follows is told of what is written from now on; this is of what was.
                    [there] = await self._reader.ask(lambda db: rows.newer(db, [(key, after)]))
                    if not there:
                        await follower[1]
        finally:
            others = self._followers[key]
            others.discard(follower)
            if not others:
                del self._followers[key]

    def _news(self, touched: set[Key] | None) -> None:
        """Something was written; by another process, where it is not known what."""
        if touched is not None:
            self._wake(touched & self._followers.keys())
        elif self._looking:
            self._look_again = True
        elif self._followers:
            watched = [
                (key, after)
                for key, followers in self._followers.items()
                for after in {after for after, _ in followers}
            ]
            self._looking = True
            looking = self._reader.ask(lambda db: rows.newer(db, watched))
            looking.add_done_callback(partial(self._looked, [key for key, _ in watched]))

    def _looked(self, keys: Sequence[Key], answer: asyncio.Future[list[bool]]) -> None:
        self._looking = False
        if answer.exception() is None:
            self._wake([key for key, new in zip(keys, answer.result(), strict=True) if new])
            if self._look_again:
                self._look_again = False
                self._news(None)
        elif isinstance(answer.exception(), StoreFailed) and self._followers:
            asyncio.get_running_loop().call_later(_AGAIN_S, self._news, None)

    def _wake(self, keys: Sequence[Key] | set[Key]) -> None:
        for key in keys:
            for _, woken in self._followers.get(key, ()):
                if not woken.done():
                    woken.set_result(None)

    # Webhooks

    async def put_hook(self, hook: Hook, *, hooks_max: int) -> bool:
        """See ``Store.put_hook``."""
        return await self._writer.ask(lambda tx: hooks.put(tx, hook, hooks_max))

    async def hook(self, owner: str, hook_id: str) -> Hook | None:
        """See ``Store.hook``."""
        return await self._reader.ask(lambda db: hooks.get(db, owner, hook_id))

    async def hooks(self, owner: str) -> list[Hook]:
        """See ``Store.hooks``."""
        return await self._reader.ask(lambda db: hooks.listed(db, owner))

    async def delete_hook(self, owner: str, hook_id: str) -> bool:
        """See ``Store.delete_hook``."""
        return await self._writer.ask(lambda tx: hooks.remove(tx, owner, hook_id))

    async def add_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Store.add_deliveries``."""
        await self._writer.ask(lambda tx: hooks.add(tx, deliveries))

    async def due(self, holder: str, now: float, *, limit: int) -> list[Delivery]:
        """See ``Store.due``. A call that is cancelled has nothing in its hands."""
        return await self._handed(
            lambda tx: runs.due(tx, holder, now, limit),
            lambda found: partial(hooks.hand_back, holder, found),
        )

    async def put_off(self, delivery: Delivery) -> None:
        """See ``Store.put_off``."""
        await self._writer.ask(lambda tx: hooks.put_off(tx, delivery))

    async def delivered(self, delivery: Delivery) -> None:
        """See ``Store.delivered``."""
        await self._writer.ask(lambda tx: hooks.delivered(tx, delivery))

    # Housekeeping

    async def expire(self, before: float, transient_before: float) -> int:
        """See ``Store.expire``."""
        return await self._writer.ask(
            lambda tx: rows.expire(tx, before, transient_before), heavy=True
        )

    async def counts(self) -> dict[Status, int]:
        """See ``Store.counts``."""
        return await self._reader.ask(rows.counts)

    async def next_queued_at(self) -> float | None:
        """See ``Store.next_queued_at``."""
        return await self._reader.ask(rows.next_queued_at)

    async def log_bytes(self) -> int:
        """See ``Store.log_bytes``."""
        return await self._reader.ask(rows.log_bytes)


def _released(claim: Claim | None) -> Write[None]:
    """Nobody waits for what was claimed any more."""
    return lambda tx: None if claim is None else runs.release(tx, claim)


def _heavy(ending: Ending) -> bool:
    return len(ending.observation or b"") + sum(map(len, ending.events)) > _HEAVY_BYTES
