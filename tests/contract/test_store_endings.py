"""What every store of executions promises of cancelled, transient and recorded executions."""

from __future__ import annotations

from gateway.executions.records import BEGINNING, EventId, Status
from gateway.executions.store import Store
from gateway.model import Media
from tests.support.stores import (
    KEY,
    NOON,
    claimed,
    delivery,
    ending,
    finished,
    new,
    status,
    submitted,
    texts,
    wrote,
)

FIRST = b'{"mediaContents":[{"mediaId":"a","rawText":"one"}]}'
SECOND = b'{"mediaContents":[{"mediaId":"a","rawText":"two"}]}'


async def test_cancelling_drops_what_is_queued(store: Store) -> None:
    await submitted(store, "run-1")
    await submitted(store, "run-2")
    assert await store.cancel(KEY, NOON + 5, [delivery("message-1")])
    found = await store.get(KEY)
    assert found is not None
    assert (found.status, found.completed_at) == (Status.CANCELLED, NOON + 5)
    assert await store.claim("holder", wait_s=0) is None
    page = await store.events(KEY, BEGINNING)
    assert page is not None
    assert page.ended
    [event] = page.events
    assert event.id > BEGINNING
    assert b"EXECUTION_STATUS" in event.text
    assert b"CANCELLED" in event.text
    assert [each.id for each in await store.due("holder", NOON, limit=9)] == ["message-1"]


async def test_what_is_claimed_after_a_cancelled_run_comes_behind_it_in_the_log(
    store: Store,
) -> None:
    await submitted(store, "run-1")
    await store.cancel(KEY, NOON)
    await submitted(store, "run-2")
    claim = await claimed(store)
    await finished(store, claim, end=ending(Status.COMPLETED, b"end"))
    found = await texts(store)
    assert len(found) == 2
    assert found[1] == b"end"


async def test_cancelling_tells_the_holder_of_a_running_run(store: Store) -> None:
    await submitted(store, "run-1")
    await submitted(store, "run-2")
    claim = await claimed(store, "holder-1")
    await wrote(store, claim, 1, b"begun", status=Status.RUNNING)
    assert await store.cancel(KEY, NOON, [delivery("message-1")])
    assert await status(store) is Status.RUNNING
    assert (await store.beat("holder-1")).cancelled == {(KEY, claim.turn)}
    assert (await store.beat("holder-2")).cancelled == frozenset()
    assert await store.due("holder", NOON, limit=9) == []
    await finished(store, claim, 2, ending(Status.CANCELLED, b"end"))
    assert await status(store) is Status.CANCELLED
    assert await store.claim("holder", wait_s=0) is None
    assert (await store.beat("holder-1")).cancelled == frozenset()


async def test_what_is_submitted_after_a_cancelling_is_run(store: Store) -> None:
    await submitted(store, "run-1")
    claim = await claimed(store)
    await store.cancel(KEY, NOON)
    await submitted(store, "run-2")
    assert (await store.beat("holder")).cancelled == {(KEY, claim.turn)}
    await finished(store, claim, end=ending(Status.CANCELLED))
    assert await status(store) is Status.QUEUED
    assert (await claimed(store)).run_id == "run-2"
    assert (await store.beat("holder")).cancelled == frozenset()


async def test_where_there_is_nothing_to_cancel_nothing_happens(store: Store) -> None:
    assert not await store.cancel(KEY, NOON)
    await store.create(new())
    assert await store.cancel(KEY, NOON, [delivery()])
    assert await status(store) is None
    await submitted(store)
    await finished(store, await claimed(store), end=ending(Status.COMPLETED, b"end"))
    assert await store.cancel(KEY, NOON, [delivery()])
    assert await status(store) is Status.COMPLETED
    assert await texts(store) == [b"end"]
    assert await store.due("holder", NOON, limit=9) == []


async def test_a_transient_execution_keeps_its_status_and_its_events(store: Store) -> None:
    await submitted(store, transient=True)
    await store.add_media(KEY, Media("m-1", b"png", "image/png"), media_max=9)
    await submitted(store, "run-2")
    await finished(
        store, await claimed(store), end=ending(Status.COMPLETED, b"1", observation=FIRST)
    )
    assert await store.observation(KEY) == FIRST
    assert await store.has_media(KEY)
    end = ending(Status.COMPLETED, b"2", observation=SECOND)
    await finished(store, await claimed(store), end=end)
    assert await store.observation(KEY) is None
    assert not await store.has_media(KEY)
    assert await store.all_media(KEY) == ()
    assert await status(store) is Status.COMPLETED
    assert await texts(store) == [b"1", b"2"]


async def test_a_transient_execution_that_is_cancelled_keeps_its_status_alone(store: Store) -> None:
    await submitted(store, transient=True)
    await store.merge(KEY, FIRST, replace=False)
    await store.cancel(KEY, NOON)
    assert await store.observation(KEY) is None
    assert await status(store) is Status.CANCELLED


async def test_an_execution_that_ran_already_is_recorded_whole(store: Store) -> None:
    end = ending(
        Status.COMPLETED, b"1", b"2", observation=FIRST, deliveries=[delivery("message-1")]
    )
    await store.record(new(tag="scans"), end)
    found = await store.get(KEY)
    assert found is not None
    assert (found.status, found.tag, found.duration_s) == (Status.COMPLETED, "scans", 2.0)
    assert (found.created_at, found.completed_at) == (NOON, NOON + 10)
    assert await store.observation(KEY) == FIRST
    page = await store.events(KEY, BEGINNING)
    assert page is not None
    assert page.ended
    assert [event.id for event in page.events] == [EventId(1, 1), EventId(1, 2)]
    assert len(await store.due("holder", NOON, limit=9)) == 1
    await store.record(new(), ending(Status.FAILED, b"3", deliveries=[delivery("message-2")]))
    assert await status(store) is Status.COMPLETED
    assert await store.due("holder", NOON, limit=9) == []


async def test_a_transient_execution_is_recorded_without_what_it_found(store: Store) -> None:
    await store.record(new(transient=True), ending(Status.COMPLETED, b"1", observation=FIRST))
    assert await store.observation(KEY) is None
    assert await status(store) is Status.COMPLETED
    assert await texts(store) == [b"1"]
