"""Executions in Redis, for any number of replicas.

Each call of ``Store`` is one script, or one command that only reads. Nothing is lost where Redis
itself loses nothing: ``appendonly yes``, ``appendfsync always``.

Owns: how the promises of ``Store`` are kept there.
Does not know: the scripts' inner workings, connections, the form of what is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace
from redis.exceptions import NoPermissionError

from gateway.errors import Code, Overloaded, RequestRejected, StoreFailed
from gateway.executions import redis_forms as forms
from gateway.executions import redis_scripts as scripts
from gateway.executions.merging import appended
from gateway.executions.records import (
    Beat,
    Claim,
    Delivery,
    Ending,
    EventId,
    Execution,
    Key,
    New,
    Page,
    Status,
)
from gateway.executions.redis_forms import Argument, name_of
from gateway.executions.redis_hooks import HookCalls
from gateway.executions.redis_news import Channel, News
from gateway.executions.store import PAGE_BYTES, Superseded
from gateway.executions.telling import status_event
from gateway.model import Media

#: Who waits looks so often without being told, seconds: where he would be told, where not.
_LOOK_S: Final = 2.0
_LOOK_DEAF_S: Final = 0.1
#: How often two observations are put together anew because a third came between.
_MERGES: Final = 50
#: How many executions are removed in one script, which holds up all others.
_EXPIRED: Final = 100
#: Observations of more than this together are put together in a thread of their own.
_AT_ONCE_BYTES: Final = 256 * 1024
#: How many pieces of a long observation are read at once.
_PIECES: Final = 8
_UNBOUND: Final = 10**9
_BUSY: Final = "too many wrote to the observation at the same time"


class RedisStore(HookCalls):
    """See ``Store``. Use one in one event loop only.

    Args:
        url: ``redis://HOST:PORT/NUMBER``, or ``rediss://`` with TLS.
        prefix: what the names of all its keys begin with.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        prefix: str = "gateway:",
    ) -> None:
        super().__init__(url, username=username, password=password, prefix=prefix)
        self._news = News(self._wire)
        self._wake: Channel | None = None

    async def open(self) -> None:
        """See that it can be used. Raises StoreFailed, which says to whoever starts the gateway
        where the server is, and what it or the system said."""
        try:
            await self._look()
        except StoreFailed as error:
            said = ": ".join(filter(None, (error.message, str(error.__cause__ or ""))))
            raise StoreFailed(f"Redis at {self._wire.address}: {said}", code=error.code) from error

    async def _look(self) -> None:
        await self._wire.command(b"PING")
        try:
            memory = await self._wire.command(b"INFO", b"memory")
        except StoreFailed as error:
            if isinstance(error.__cause__, NoPermissionError):
                return  # who keeps that to himself has to know
            raise
        policy = [line for line in memory.split() if line.startswith(b"maxmemory_policy:allkeys")]
        if policy and b"maxmemory:0\r" not in memory:
            raise StoreFailed(
                "the store of executions removes keys when it is full; it needs maxmemory-policy "
                "noeviction"
            )

    async def close(self) -> None:
        """Let go of the connections, after what was asked for before."""
        await self._news.close()
        await self._close()

    # Executions

    async def create(self, new: New) -> bool:
        """See ``Store``."""
        made = await self._script(scripts.CREATE, name_of(new.key), *forms.new_arguments(new))
        return bool(made)

    async def get(self, key: Key) -> Execution | None:
        """See ``Store``."""
        return forms.execution_of(await self._fields(key, *forms.EXECUTION))

    async def listed(
        self, owner: str, *, tag: str | None = None, after: str | None = None, limit: int = 100
    ) -> list[Execution]:
        """See ``Store``."""
        tagged = forms.tag_argument(tag)
        found = await self._script(scripts.LISTED, owner, tagged, after or b"", limit)
        executions = [forms.execution_of(each) for each in found]
        return [each for each in executions if each is not None]

    async def delete(self, key: Key) -> bool:
        """See ``Store``."""
        return bool(await self._script(scripts.DELETE, name_of(key)))

    # Media and observation

    async def add_media(self, key: Key, media: Media, *, media_max: int) -> bool:
        """See ``Store``."""
        kept = forms.media_arguments([media])
        added = await self._script(scripts.ADD_MEDIA, name_of(key), media.id, media_max, *kept)
        if added < 0:
            raise RequestRejected(
                f'the execution "{key.id}" has {media_max} media already', code=Code.CONFLICT
            )
        return bool(added)

    async def media(self, key: Key, media_id: str) -> Media | None:
        """See ``Store``."""
        found = await self._all_of(key, [media_id])
        return found[0] if found else None

    async def has_media(self, key: Key) -> bool:
        """See ``Store``."""
        return bool(await self._wire.command(b"EXISTS", self._named("mi", key)))

    async def all_media(self, key: Key) -> tuple[Media, ...]:
        """See ``Store``."""
        ids = await self._wire.command(b"LRANGE", self._named("mi", key), 0, -1)
        return await self._all_of(key, [each.decode() for each in ids])

    async def _all_of(self, key: Key, ids: list[str]) -> tuple[Media, ...]:
        """Those of the execution's media that have these IDs and are there."""
        if not ids:
            return ()
        name = self._named("m", key)
        media: tuple[Media, ...] = ()
        for media_id, found in zip(
            ids, await self._wire.command(b"HMGET", name, *ids), strict=True
        ):
            kept = forms.kept_of(found)
            pieces = await self._pieces(name, kept.fields(f"{media_id}/"))
            media += () if pieces is None else kept.whole(pieces)
        return media

    async def observation(self, key: Key) -> bytes | None:
        """See ``Store``."""
        return (await self._observed(key))[0]

    async def _observed(self, key: Key) -> tuple[bytes | None, bytes]:
        """Its observation, and which version of it that is."""
        for _ in range(_MERGES):
            names = ("observation", "version", "pieces")
            found, version, pieces = await self._fields(key, *names)
            if pieces is None:
                return found, version or b"0"
            read: list[bytes] = []
            for start in range(0, int(pieces), _PIECES):
                part = (start, start + _PIECES - 1)
                read += await self._wire.command(b"LRANGE", self._named("o", key), *part)
            if (await self._fields(key, *names))[1:] == [version, pieces]:
                return b"".join(read), version
        raise StoreFailed(_BUSY, retry_after_s=1)

    async def merge(
        self, key: Key, observation: bytes, *, replace: bool, deliveries: Sequence[Delivery] = ()
    ) -> bool:
        """See ``Store``."""
        messages = forms.delivery_arguments(deliveries)
        for _ in range(_MERGES):
            try:
                version, merged = await self._merged(key, observation, replace=replace)
            except RequestRejected:
                if not await self._wire.command(b"EXISTS", self._named("e", key)):
                    return False
                raise
            pieces = forms.observation_arguments(merged)
            done = await self._script(scripts.MERGE, name_of(key), version, *pieces, *messages)
            if done >= 0:
                return bool(done)
        raise StoreFailed(_BUSY, retry_after_s=1)

    async def _merged(self, key: Key, added: bytes, *, replace: bool) -> tuple[bytes, bytes]:
        """The version of the observation that is there, and it with ``added``."""
        there, version = await self._observed(key)
        return version, await _appended(there or b"{}", added, replace=replace)

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
        """See ``Store``."""
        queued = await self._script(
            scripts.SUBMIT,
            name_of(key),
            run_id,
            payload,
            queued_at,
            runs_max,
            b"1" if new else b"",
            *forms.new_arguments(new),
            *forms.media_arguments(media),
            *forms.delivery_arguments(deliveries),
        )
        if queued < 0:
            raise Overloaded(f"{runs_max} runs are queued already", retry_after_s=1)
        return bool(queued)

    async def begin(
        self, key: Key, run_id: str, holder: str, *, queued_at: float, new: New | None = None
    ) -> Claim | None:
        """See ``Store``."""

        async def whole(turn: bytes) -> Claim:
            return Claim(key, run_id, int(turn), 1, holder, b"", (), queued_at, direct=True)

        return await self._taken(
            scripts.BEGIN,
            holder,
            name_of(key),
            run_id,
            queued_at,
            b"1" if new else b"",
            *forms.new_arguments(new),
            whole=whole,
        )

    async def record(self, new: New, ending: Ending) -> None:
        """See ``Store``."""
        found = ending.observation
        if found is not None:
            found = await _appended(b"{}", found, replace=False)
        await self._script(
            scripts.RECORD,
            name_of(new.key),
            *forms.new_arguments(new),
            ending.status,
            ending.completed_at,
            ending.duration_s,
            forms.message_argument(ending.message),
            len(ending.events),
            *forms.logged(1, 1, ending.events),
            *forms.observation_arguments(found),
            *forms.delivery_arguments(ending.deliveries),
        )

    async def claim(self, holder: str, *, wait_s: float) -> Claim | None:
        """See ``Store``."""
        clock = asyncio.get_running_loop().time
        until = clock() + wait_s
        if self._wake is None:
            self._wake = self._news.join(f"{self._prefix}wake")
        while True:
            seen = self._wake.changes
            claim = await self._taken(
                scripts.CLAIM, holder, whole=lambda found: self._claim_of(found, holder)
            )
            left_s = until - clock()
            if claim is not None or left_s <= 0:
                return claim
            await self._wake.changed(seen, min(left_s, _look_s(self._wake)))

    async def _claim_of(self, found: list[bytes], holder: str) -> Claim:
        """The claim that a script tells of, with its files. Where its execution was removed at the
        same moment they are missing, and it cannot be written to any more."""
        claim, kept = forms.claim_of(found, holder)
        pieces = await self._pieces(self._run_of(claim), kept.fields("p"))
        return replace(claim, media=() if pieces is None else kept.whole(pieces))

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
        """See ``Store``."""
        written = await self._script(
            scripts.WRITE,
            name_of(claim.key),
            claim.run_id,
            claim.turn,
            status or b"",
            events_max,
            first,
            len(events),
            *forms.logged(claim.turn, first, events),
            *forms.delivery_arguments(deliveries),
        )
        if not written:
            raise Superseded

    async def finish(self, claim: Claim, first: int, ending: Ending, *, events_max: int) -> None:
        """See ``Store``."""
        rest: list[Argument] = [
            ending.status,
            ending.completed_at,
            ending.duration_s,
            forms.message_argument(ending.message),
            events_max,
            first,
            len(ending.events),
            *forms.logged(claim.turn, first, ending.events),
        ]
        messages = forms.delivery_arguments(ending.deliveries)
        run = (name_of(claim.key), claim.run_id, claim.turn)
        version, merged = b"", None
        for _ in range(_MERGES):
            if ending.observation is not None:
                try:
                    version, merged = await self._merged(
                        claim.key, ending.observation, replace=ending.replace
                    )
                except RequestRejected:
                    if not await self._is_held(claim):
                        raise Superseded from None
                    raise
            pieces = forms.observation_arguments(merged)
            done = await self._script(scripts.FINISH, *run, version, *rest, *pieces, *messages)
            if done == 0:
                raise Superseded
            if done > 0:
                return
        raise StoreFailed(_BUSY, retry_after_s=1)

    async def _is_held(self, claim: Claim) -> bool:
        turn = await self._wire.command(b"HGET", self._run_of(claim), b"turn")
        return bool(turn == b"%d" % claim.turn)

    def _run_of(self, claim: Claim) -> str:
        return f"{self._named('r', claim.key)}/{claim.run_id}"

    async def release(self, claim: Claim) -> None:
        """See ``Store``."""
        run = (name_of(claim.key), claim.run_id, claim.turn)
        released = await self._script(scripts.RELEASE, *run)
        if not released:
            raise Superseded
        if released < 0:  # it has no place in a queue, and ends as if cancelled
            last = await self._wire.command(b"HGET", self._run_of(claim), b"last")
            event = status_event(claim.key, Status.CANCELLED)
            end = Ending(Status.CANCELLED, claim.queued_at, 0.0, events=(event,))
            await self.finish(claim, int(last or 0) + 1, end, events_max=_UNBOUND)

    async def cancel(self, key: Key, at: float, deliveries: Sequence[Delivery] = ()) -> bool:
        """See ``Store``."""
        event = status_event(key, Status.CANCELLED)
        messages = forms.delivery_arguments(deliveries)
        return bool(await self._script(scripts.CANCEL, name_of(key), at, event, *messages))

    async def adopt(self, key: Key) -> None:
        """See ``Store``."""
        await self._script(scripts.ADOPT, name_of(key))

    # Who lives

    async def beat(self, holder: str) -> Beat:
        """See ``Store``."""
        counts, hand, stopped, adopted = await self._script(scripts.BEAT, holder)
        held = dict(zip(hand[::2], map(int, hand[1::2]), strict=True))
        turns = {place: (forms.place_of(place)[0], turn) for place, turn in held.items()}
        return Beat(
            {name.decode(): int(n) for name, n in zip(counts[::2], counts[1::2], strict=True)},
            frozenset(turns.values()),
            frozenset(turns[place] for place in stopped if place in turns),
            frozenset(turns[place] for place in adopted if place in turns),
        )

    async def take_over(
        self, dead: str, beats: int, by: str, *, attempts_max: int
    ) -> tuple[Claim, ...] | None:
        """See ``Store``."""

        async def whole(lost: list[list[bytes]]) -> tuple[Claim, ...]:
            return tuple([await self._claim_of(each, by) for each in lost])

        return await self._taken(scripts.TAKE_OVER, by, dead, beats, attempts_max, whole=whole)

    async def leave(self, holder: str) -> None:
        """See ``Store``. One with something in its hands is left to be taken over."""
        await self._script(scripts.LEAVE, holder)

    # The log

    async def events(self, key: Key, after: EventId, *, limit: int = 1000) -> Page | None:
        """See ``Store``."""
        found = await self._script(
            scripts.EVENTS, name_of(key), forms.position(after), limit, PAGE_BYTES
        )
        return None if found is None else forms.page_of(found, after, limit)

    async def news(self, key: Key, after: EventId, *, wait_s: float) -> None:
        """See ``Store``."""
        clock = asyncio.get_running_loop().time
        until = clock() + wait_s
        channel = self._news.join(self._named("news", key))
        try:
            while (left_s := until - clock()) > 0:
                seen = channel.changes
                last = channel.last
                if last is None:
                    last = await self._latest(key)
                    if channel.heard and channel.changes == seen:
                        channel.last = last
                newest, _, over = last.partition(b"|")
                if over or newest > forms.position(after):
                    return
                await channel.changed(seen, min(left_s, wait_s if channel.heard else _LOOK_DEAF_S))
        finally:
            self._news.leave(channel)

    async def _latest(self, key: Key) -> bytes:
        """What would be told of the execution now."""
        there, newest, status = await self._fields(key, "n", "newest", "status")
        over = there is None or (status is not None and Status(status.decode()).ended)
        return (newest or b"") + b"|" + (b"1" if over else b"")

    # Housekeeping

    async def expire(self, before: float, transient_before: float) -> int:
        """See ``Store``."""
        return int(await self._script(scripts.EXPIRE, before, transient_before, _EXPIRED))

    async def counts(self) -> dict[Status, int]:
        """See ``Store``."""
        found = await self._wire.command(b"HGETALL", f"{self._prefix}statuses")
        return {
            Status(name.decode()): int(count)
            for name, count in zip(found[::2], found[1::2], strict=True)
        }

    async def next_queued_at(self) -> float | None:
        """See ``Store``."""
        found = await self._script(scripts.NEXT_QUEUED)
        return None if found is None else float(found)

    async def log_bytes(self) -> int:
        """See ``Store``."""
        return int(await self._wire.command(b"GET", f"{self._prefix}bytes") or 0)


def _look_s(channel: Channel) -> float:
    return _LOOK_S if channel.heard else _LOOK_DEAF_S


async def _appended(first: bytes, second: bytes, *, replace: bool) -> bytes:
    """``observation.append``; of long ones not in the loop's thread. Raises RequestRejected."""
    if len(first) + len(second) <= _AT_ONCE_BYTES:
        return appended(first, second, replace=replace)
    return await asyncio.to_thread(appended, first, second, replace=replace)
