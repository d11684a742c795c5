"""What every store of executions promises of the log: its order, its bound, its news."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.executions.records import BEGINNING, EventId, Key, Logged, Status
from gateway.executions.store import PAGE_BYTES, Store
from tests.support.stores import (
    EVENTS_MAX,
    KEY,
    NOON,
    Opener,
    begun,
    claimed,
    ending,
    finished,
    new,
    submitted,
    texts,
    wrote,
)
from tests.support.timing import every_time, patience, promised

FAR = EventId(999, 1)


async def _news(store: Store, after: EventId, wait_s: float = 30) -> asyncio.Task[None]:
    """A task that waits for news, and has been waiting for a while."""
    waiting = asyncio.create_task(store.news(KEY, after, wait_s=wait_s))
    await asyncio.sleep(0.2)
    return waiting


async def test_events_are_read_in_their_order(store: Store) -> None:
    claim = await begun(store)
    await wrote(store, claim, 1, b"1", b"2")
    await wrote(store, claim, 3, b"3")
    await finished(store, claim, 4, ending(Status.COMPLETED, b"4"))
    page = await store.events(KEY, BEGINNING)
    assert page is not None
    assert page.events == tuple(
        Logged(EventId(claim.turn, number), b"%d" % number) for number in range(1, 5)
    )
    assert page.ended
    assert not page.lost


async def test_events_are_read_from_where_one_was(store: Store) -> None:
    claim = await begun(store)
    await wrote(store, claim, 1, *(b"%d" % number for number in range(1, 12)))
    assert await texts(store, after=EventId(claim.turn, 9)) == [b"10", b"11"]
    assert await texts(store, after=EventId(claim.turn, 11)) == []
    assert await texts(store, after=FAR) == []


async def test_events_are_read_page_by_page(store: Store) -> None:
    claim = await begun(store)
    await finished(store, claim, 1, ending(Status.COMPLETED, b"1", b"2", b"3"))
    first = await store.events(KEY, BEGINNING, limit=2)
    assert first is not None
    assert ([event.text for event in first.events], first.ended) == ([b"1", b"2"], False)
    second = await store.events(KEY, first.events[-1].id, limit=2)
    assert second is not None
    assert ([event.text for event in second.events], second.ended) == ([b"3"], True)
    whole = await store.events(KEY, BEGINNING, limit=3)
    assert whole is not None
    assert whole.ended


async def test_a_page_of_large_events_is_short_and_not_the_last(store: Store) -> None:
    claim = await begun(store)
    large = [b"%d" % number + b"x" * (PAGE_BYTES // 2) for number in range(9)]
    await wrote(store, claim, 1, *large, b"small")
    await finished(store, claim, 11)
    found: list[bytes] = []
    sizes = []
    after, ended = BEGINNING, False
    while not ended:
        page = await store.events(KEY, after)
        assert page is not None
        found += [event.text for event in page.events]
        sizes.append(sum(len(event.text) for event in page.events))
        after, ended = page.events[-1].id, page.ended
    assert found == [*large, b"small"]
    assert max(sizes) < 2 * PAGE_BYTES
    huge = await begun(store, "run-2")
    await wrote(store, huge, 1, b"x" * 3 * PAGE_BYTES)
    await finished(store, huge, 2)
    page = await store.events(KEY, after)
    assert page is not None
    assert page.ended
    assert len(page.events) == 1


async def test_later_turns_come_behind_earlier_ones(store: Store) -> None:
    for run_id in ("run-1", "run-2"):
        await submitted(store, run_id)
        claim = await claimed(store)
        await wrote(store, claim, 1, *(run_id.encode() + b"-%d" % n for n in range(1, 12)))
        await finished(store, claim, 12)
    found = await store.events(KEY, BEGINNING)
    assert found is not None
    assert [event.id for event in found.events] == sorted(event.id for event in found.events)
    assert [event.text for event in found.events][10:12] == [b"run-1-11", b"run-2-1"]


async def test_a_log_has_ended_only_where_there_was_a_run(store: Store) -> None:
    assert await store.events(KEY, BEGINNING) is None
    await store.create(new())
    for step in ("made", "queued", "claimed"):
        page = await store.events(KEY, BEGINNING)
        assert page is not None
        assert (page.events, page.ended, page.lost) == ((), False, False), step
        if step == "made":
            await submitted(store)
        elif step == "queued":
            claim = await claimed(store)
    await finished(store, claim)
    page = await store.events(KEY, BEGINNING)
    assert page is not None
    assert page.ended
    await submitted(store, "run-2")
    page = await store.events(KEY, BEGINNING)
    assert page is not None
    assert not page.ended


async def test_events_written_again_are_there_once(store: Store) -> None:
    claim = await begun(store)
    await wrote(store, claim, 1, b"1", b"2")
    await wrote(store, claim, 1, b"1", b"2", b"3")
    await wrote(store, claim, 2, b"2")
    assert await texts(store) == [b"1", b"2", b"3"]
    await finished(store, claim, 3, ending(Status.COMPLETED, b"3", b"4"))
    assert await texts(store) == [b"1", b"2", b"3", b"4"]


async def test_the_newest_events_are_kept(store: Store) -> None:
    claim = await begun(store)
    for number in range(1, 31):
        await store.write(claim, number, [b"%d" % number], events_max=10)
    page = await store.events(KEY, BEGINNING)
    assert page is not None
    assert [event.text for event in page.events] == [b"%d" % number for number in range(21, 31)]
    assert page.lost
    await store.write(claim, 31, [b"%d" % number for number in range(31, 56)], events_max=10)
    assert await texts(store) == [b"%d" % number for number in range(46, 56)]
    await store.finish(claim, 56, ending(Status.COMPLETED, b"56"), events_max=10)
    assert await texts(store) == [b"%d" % number for number in range(47, 57)]


async def test_only_who_was_before_the_dropped_events_has_lost_some(store: Store) -> None:
    claim = await begun(store)
    await store.write(claim, 1, [b"%d" % number for number in range(1, 21)], events_max=10)
    for after, lost in ((0, True), (9, True), (10, False), (15, False), (20, False)):
        page = await store.events(KEY, EventId(claim.turn, after))
        assert page is not None
        assert page.lost is lost, after


async def test_the_bound_holds_over_all_turns(store: Store) -> None:
    for run_id in ("run-1", "run-2"):
        await submitted(store, run_id)
        claim = await claimed(store)
        await store.write(claim, 1, [b"%d" % number for number in range(1, 9)], events_max=10)
        await store.finish(claim, 9, ending(), events_max=10)
    found = await store.events(KEY, BEGINNING)
    assert found is not None
    assert len(found.events) == 10
    assert found.lost
    assert found.events[0].text == b"7"


async def _written(store: Store) -> None:
    claim = await claimed(store)
    await wrote(store, claim, 1, b"1")


async def _finished(store: Store) -> None:
    claim = await claimed(store)
    await store.finish(claim, 1, ending(), events_max=EVENTS_MAX)


async def _cancelled(store: Store) -> None:
    await store.cancel(KEY, NOON)


async def _deleted(store: Store) -> None:
    await store.delete(KEY)


NEWS: dict[str, Callable[[Store], Awaitable[None]]] = {
    "an event": _written,
    "the end": _finished,
    "the cancelling": _cancelled,
    "the removal": _deleted,
}


@pytest.mark.parametrize("what", NEWS)
@pytest.mark.parametrize("where", ["here", "there"])
async def test_news_are_told_soon(another: Opener, what: str, where: str) -> None:
    here = await another()
    there = here if where == "here" else await another()

    @every_time
    async def told_soon() -> None:
        await there.delete(KEY)
        await submitted(there)
        waiting = await _news(here, BEGINNING)
        assert not waiting.done()
        async with promised(within_s=1.0):
            await NEWS[what](there)
            await waiting

    await told_soon()


async def test_what_is_already_there_is_news(store: Store) -> None:
    claim = await begun(store)
    await wrote(store, claim, 1, b"1", b"2")
    async with patience():
        await store.news(KEY, EventId(claim.turn, 1), wait_s=3600)
        await store.news(Key("tenant", "none"), BEGINNING, wait_s=3600)
        await finished(store, claim, 3)
        await store.news(KEY, EventId(claim.turn, 2), wait_s=3600)


async def test_news_are_waited_for_no_longer_than_asked(store: Store) -> None:
    claim = await begun(store)
    await wrote(store, claim, 1, b"1")
    async with patience():
        await store.news(KEY, EventId(claim.turn, 1), wait_s=0.1)
        await store.news(KEY, EventId(claim.turn, 1), wait_s=0)


async def test_an_execution_that_never_ran_has_no_news(store: Store) -> None:
    await store.create(new())
    waiting = await _news(store, BEGINNING)
    assert not waiting.done()
    claim = await begun(store)
    await wrote(store, claim, 1, b"1")
    async with patience():
        await waiting


async def test_who_waits_for_later_events_is_not_told_of_earlier_ones(store: Store) -> None:
    claim = await begun(store)
    await wrote(store, claim, 1, b"1", b"2")
    waiting = await _news(store, EventId(claim.turn, 2))
    assert not waiting.done()
    await wrote(store, claim, 3, b"3")
    async with patience():
        await waiting


async def test_many_wait_for_news_at_once(another: Opener) -> None:
    here, there = await another(), await another()
    keys = [Key("tenant", f"e{number}") for number in range(200)]
    claims = [await begun(there, key=key) for key in keys]
    waiting = [asyncio.create_task(here.news(key, BEGINNING, wait_s=600)) for key in keys]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in waiting)
    for claim in claims[::2]:
        await wrote(there, claim, 1, b"1")
    async with patience():
        await asyncio.gather(*waiting[::2])
    assert not any(task.done() for task in waiting[1::2])
    for claim in claims[1::2]:
        await wrote(there, claim, 1, b"1")
    async with patience():
        await asyncio.gather(*waiting)


async def test_who_gives_up_waiting_for_news_leaves_the_others_waiting(store: Store) -> None:
    claim = await begun(store)
    first, second = await _news(store, BEGINNING), await _news(store, BEGINNING)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await wrote(store, claim, 1, b"1")
    async with patience():
        await second
