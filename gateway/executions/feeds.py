"""Attaching to logs: any number of watchers of one execution cost the store what one does.

Owns: one reader for each execution that is watched here, what it keeps for those a little behind
it, and its end with the last of them.
Does not know: HTTP, who may watch what.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Final

from msgspec import Struct

from gateway import logs
from gateway.errors import Code, RequestRejected, StoreFailed
from gateway.executions.records import BEGINNING, EventId, Key, Logged, Page, unknown
from gateway.executions.store import PAGE_BYTES, Store
from gateway.sse import encode

#: So many of the newest events are kept for those who are a little behind; who is further behind
#: reads from the store by himself.
_KEPT: Final = 512
_KEPT_BYTES: Final = 4 * 1024 * 1024
_PAGE: Final = 500
#: How long the store may keep a question for news, and how long a store that failed is left alone.
_WAIT_S: Final = 15.0
_AGAIN_S: Final = 0.5
#: So much of a log is handed out at once.
_PIECE_BYTES: Final = 64 * 1024


class Piece(Struct, frozen=True):
    """Some events as a stream has them, with their IDs; how many, and the ID of the last."""

    data: bytes
    count: int
    last: EventId


def pieces(events: Iterable[Logged]) -> tuple[Piece, ...]:
    """``events`` as they are sent to whoever watches."""
    found: list[Piece] = []
    frames: list[bytes] = []
    size = 0
    last = None
    for event in events:
        frames.append(encode(event.text, event_id=str(event.id)))
        size += len(frames[-1])
        last = event.id
        if size >= _PIECE_BYTES:
            found.append(Piece(b"".join(frames), len(frames), last))
            frames, size = [], 0
    if frames and last is not None:
        found.append(Piece(b"".join(frames), len(frames), last))
    return tuple(found)


def _last(page: Page) -> bool:
    """Whether there was no more to be read behind it."""
    size = sum(len(event.text) for event in page.events)
    return len(page.events) < _PAGE and size < PAGE_BYTES


class _Feed:
    """The one reader of an execution's log, from behind ``start`` on."""

    def __init__(
        self, store: Store, key: Key, start: EventId, over: Callable[[_Feed], None]
    ) -> None:
        #: Everything behind ``start`` and up to ``end`` is kept.
        self.start = self.end = start
        #: Whether nothing follows: the execution has ended, or it was removed.
        self.over = False
        self.watchers = 0
        self.key = key
        self._store = store
        self._kept: deque[Logged] = deque()
        self._bytes = 0
        #: What is behind the place where most who watch are: they all get the same.
        self._ready: tuple[EventId, tuple[Piece, ...]] | None = None
        self._news = asyncio.Event()
        self._tell_over = over
        self.reading = asyncio.create_task(self._read())

    def behind(self, position: EventId) -> tuple[Piece, ...]:
        """What is kept behind ``position``, which is not before ``start``."""
        if position == self.end:
            return ()
        if self._ready is None or self._ready[0] != position:
            found = []
            for each in reversed(self._kept):
                if each.id <= position:
                    break
                found.append(each)
            self._ready = (position, pieces(reversed(found)))
        return self._ready[1]

    async def changed(self) -> None:
        """Return when there is more, or nothing follows, or ``wake`` was called."""
        await self._news.wait()

    def wake(self) -> None:
        """Have all who wait for a change look again."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _read(self) -> None:
        while not self.over:
            try:
                page = await self._store.events(self.key, self.end, limit=_PAGE)
                if page is not None and not page.events and not page.ended:
                    await self._store.news(self.key, self.end, wait_s=_WAIT_S)
                    continue
            except StoreFailed:
                await asyncio.sleep(_AGAIN_S)
                continue
            except Exception:  # noqa: BLE001  it may pass, and all who watch would wait for ever
                logs.events.exception("internal error", extra={"fields": {}})
                await asyncio.sleep(_AGAIN_S)
                continue
            self._take(page)
            self.wake()
        self._tell_over(self)

    def _take(self, page: Page | None) -> None:
        if page is None or page.ended:
            self.over = True
        if page is not None and page.events:
            self._ready = None
            if page.lost and self.end > BEGINNING:
                # What this reader has missed its watchers have, too: each is to find that out.
                self._kept.clear()
                self._bytes = 0
                self.start = page.events[-1].id
            else:
                self._kept.extend(page.events)
                self._bytes += sum(len(event.text) for event in page.events)
            self.end = page.events[-1].id
            while len(self._kept) > _KEPT or (self._bytes > _KEPT_BYTES and len(self._kept) > 1):
                dropped = self._kept.popleft()
                self._bytes -= len(dropped.text)
                self.start = dropped.id


class Feeds:
    """The logs that are watched in this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._feeds: dict[Key, _Feed] = {}
        self._stopping = False

    def stop(self) -> None:
        """End every watching: the gateway stops, and a watcher can go on elsewhere."""
        self._stopping = True
        for feed in self._feeds.values():
            feed.wake()

    async def watch(self, key: Key, after: EventId) -> AsyncGenerator[tuple[Piece, ...]]:
        """The events behind ``after`` as they come, some at a time, until the execution has ended.
        The first are yielded at once, also where there are none yet.

        Raises:
            RequestRejected: there is no such execution (404), or some of the events behind
                ``after`` are kept no more (410).
            StoreFailed: the store does not answer.
        """
        page = await self._page(key, after)
        if page is None:
            raise unknown(key)
        position = after
        while True:
            yield pieces(page.events)
            position = page.events[-1].id if page.events else position
            if page.ended or self._stopping:
                return
            if _last(page):
                feed = self._join(key, position)
                try:
                    while position >= feed.start:
                        found = feed.behind(position)
                        if found:
                            position = found[-1].last
                            yield found
                        elif feed.over or self._stopping:
                            return
                        else:
                            await feed.changed()
                finally:
                    self._leave(feed)
            page = await self._page(key, position)
            if page is None:
                return  # removed meanwhile

    async def _page(self, key: Key, after: EventId) -> Page | None:
        page = await self._store.events(key, after, limit=_PAGE)
        if page is not None and page.lost and after > BEGINNING:
            raise RequestRejected(
                f"not all events behind {after} are kept any more; attach without Last-Event-ID, "
                f"or read the observation",
                code=Code.GONE,
            )
        return page

    def _join(self, key: Key, position: EventId) -> _Feed:
        feed = self._feeds.get(key)
        if feed is None or position < feed.start:
            # Of one who has just caught up, that is only true where the other is far ahead.
            feed = _Feed(self._store, key, position, self._forget)
            self._feeds.setdefault(key, feed)
        feed.watchers += 1
        return feed

    def _leave(self, feed: _Feed) -> None:
        feed.watchers -= 1
        if not feed.watchers:
            feed.reading.cancel()
            self._forget(feed)

    def _forget(self, feed: _Feed) -> None:
        if self._feeds.get(feed.key) is feed:
            del self._feeds[feed.key]
