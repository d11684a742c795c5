"""What every store of executions promises of executions, their media and their observations."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import Code, RequestRejected
from gateway.executions.records import BEGINNING, Execution, Key, New, Status
from gateway.executions.store import Store
from gateway.model import Media
from tests.support.stores import (
    EVENTS_MAX,
    KEY,
    NOON,
    Opener,
    begun,
    claimed,
    delivery,
    ending,
    finished,
    new,
    status,
    submitted,
    wrote,
)

OTHERS = Key("others", "execution")
OBSERVATION = b'{"mediaContents":[{"mediaId":"a","rawText":"one"}]}'


async def _ended(store: Store, key: Key, at: float, *, transient: bool = False) -> None:
    await submitted(store, key=key, transient=transient)
    await finished(store, await claimed(store), end=ending(Status.COMPLETED, b"end", at=at))


async def _ids(store: Store, owner: str = "tenant") -> list[str]:
    return [execution.key.id for execution in await store.listed(owner)]


async def test_an_execution_is_given_back_as_it_was_made(another: Opener) -> None:
    made = New(KEY, NOON, "a tag – ü", b'{"a":"\xc3\xbc"}', ("hook-1", "hook-2"), transient=True)
    assert await (await another()).create(made)
    assert await (await another()).get(KEY) == Execution(
        KEY, NOON, "a tag – ü", b'{"a":"\xc3\xbc"}', ("hook-1", "hook-2"), transient=True
    )


async def test_an_execution_is_made_once(store: Store) -> None:
    assert await store.create(new(tag="first"))
    assert not await store.create(new(tag="second"))
    found = await store.get(KEY)
    assert found is not None
    assert found.tag == "first"


async def test_only_one_of_many_makes_an_execution(another: Opener) -> None:
    stores = [await another(), await another()]
    made = await asyncio.gather(*(stores[number % 2].create(new()) for number in range(10)))
    assert sum(made) == 1


async def test_owners_have_executions_of_their_own(store: Store) -> None:
    await store.create(new())
    assert await store.get(OTHERS) is None
    assert await store.listed("others") == []
    assert not await store.add_media(OTHERS, Media("m", b"", "text/plain"), media_max=9)
    assert not await store.merge(OTHERS, b"{}", replace=False)
    assert not await store.delete(OTHERS)
    assert not await store.cancel(OTHERS, NOON)
    await store.create(new(OTHERS, tag="theirs"))
    assert [one.tag for one in await store.listed("others")] == ["theirs"]
    assert [one.tag for one in await store.listed("tenant")] == [None]


async def test_executions_are_listed_from_the_newest_on(store: Store) -> None:
    for number in range(7):
        await store.create(new(Key("tenant", f"e{number}"), NOON + number))
    assert await _ids(store) == ["e6", "e5", "e4", "e3", "e2", "e1", "e0"]
    page = await store.listed("tenant", after="e4", limit=3)
    assert [one.key.id for one in page] == ["e3", "e2", "e1"]
    assert await store.listed("tenant", after="e0") == []
    gone = await store.listed("tenant", after="no-such", limit=1)
    assert [one.key.id for one in gone] == ["e6"]


async def test_executions_made_in_the_same_moment_are_all_listed_page_by_page(store: Store) -> None:
    for number in range(7):
        await store.create(new(Key("tenant", f"e{number}"), NOON))
    found: list[str] = []
    after = None
    while page := await store.listed("tenant", after=after, limit=2):
        found += [one.key.id for one in page]
        after = found[-1]
    assert sorted(found) == [f"e{number}" for number in range(7)]


async def test_executions_are_listed_by_tag(store: Store) -> None:
    for number in range(6):
        key = Key("tenant", f"e{number}")
        await store.create(new(key, NOON + number, tag="odd" if number % 2 else "even"))
    await store.create(new(Key("others", "e9"), NOON + 9, tag="odd"))
    assert [one.key.id for one in await store.listed("tenant", tag="odd")] == ["e5", "e3", "e1"]
    page = await store.listed("tenant", tag="even", after="e4", limit=1)
    assert [one.key.id for one in page] == ["e2"]
    assert await store.listed("tenant", tag="neither") == []


async def test_a_removed_execution_is_gone_with_everything_of_it(store: Store) -> None:
    await submitted(store, deliveries=[delivery()])
    await store.add_media(KEY, Media("m-1", b"png", "image/png"), media_max=9)
    await store.merge(KEY, OBSERVATION, replace=False)
    claim = await claimed(store)
    await wrote(store, claim, 1, b"event")
    await submitted(store, "run-2")
    assert await store.delete(KEY)
    assert not await store.delete(KEY)
    assert await store.get(KEY) is None
    assert await store.events(KEY, BEGINNING) is None
    assert await store.observation(KEY) is None
    assert await store.media(KEY, "m-1") is None
    assert await store.claim("holder", wait_s=0) is None
    assert await store.due("holder", NOON, limit=9) == []
    assert await store.listed("tenant") == []
    assert (await store.counts()).get(Status.QUEUED, 0) == 0
    assert await store.log_bytes() == 0
    await store.create(new())
    assert await store.all_media(KEY) == ()


async def test_media_are_given_back_in_the_order_in_which_they_were_added(store: Store) -> None:
    await store.create(new())
    assert not await store.has_media(KEY)
    added = tuple(
        Media(media_id, bytes([number]) * number, "image/png", name)
        for number, (media_id, name) in enumerate([("z", None), ("a", "ä.png"), ("m", "")])
    )
    for media in added:
        assert await store.add_media(KEY, media, media_max=9)
    assert await store.all_media(KEY) == added
    assert await store.media(KEY, "a") == added[1]
    assert await store.media(KEY, "b") is None
    assert await store.has_media(KEY)
    assert not await store.has_media(OTHERS)
    assert await store.all_media(OTHERS) == ()


async def test_media_added_again_are_there_once(store: Store) -> None:
    await store.create(new())
    media = Media("m-1", b"png", "image/png")
    assert await store.add_media(KEY, media, media_max=1)
    assert await store.add_media(KEY, media, media_max=1)
    assert await store.all_media(KEY) == (media,)


async def test_an_execution_keeps_no_more_media_than_it_may(store: Store) -> None:
    await store.create(new())
    for number in range(2):
        await store.add_media(KEY, Media(f"m-{number}", b"", "text/plain"), media_max=2)
    with pytest.raises(RequestRejected) as caught:
        await store.add_media(KEY, Media("m-2", b"", "text/plain"), media_max=2)
    assert caught.value.code is Code.CONFLICT
    assert len(await store.all_media(KEY)) == 2


async def test_large_media_are_given_back_byte_for_byte(store: Store) -> None:
    await store.create(new())
    large = Media("large", bytes(range(251)) * 40_000, "application/pdf", "large.pdf")
    await store.add_media(KEY, large, media_max=9)
    assert await store.media(KEY, "large") == large
    await store.submit(KEY, "run-1", b"", [large, large], queued_at=NOON, runs_max=9)
    assert (await claimed(store)).media == (large, large)


async def test_an_observation_grows_by_what_is_merged(store: Store) -> None:
    assert await store.observation(KEY) is None
    await store.create(new())
    assert await store.observation(KEY) is None
    assert await store.merge(KEY, OBSERVATION, replace=False, deliveries=[delivery()])
    assert await store.observation(KEY) == OBSERVATION
    assert await store.merge(KEY, OBSERVATION, replace=True)
    assert await store.observation(KEY) == OBSERVATION
    assert await store.merge(KEY, b'{"executionId":"x"}', replace=False)
    found = await store.observation(KEY)
    assert found is not None
    assert b'"executionId":"x"' in found
    assert OBSERVATION[1:-1] in found
    assert len(await store.due("holder", NOON, limit=9)) == 1
    assert await status(store) is None


async def test_what_is_no_observation_is_merged_with_nothing(store: Store) -> None:
    await store.create(new())
    with pytest.raises(RequestRejected):
        await store.merge(KEY, b"[1]", replace=False)
    assert await store.observation(KEY) is None
    await store.merge(KEY, OBSERVATION, replace=False)
    with pytest.raises(RequestRejected):
        await store.merge(KEY, b"[1]", replace=False, deliveries=[delivery()])
    assert await store.observation(KEY) == OBSERVATION
    assert await store.due("holder", NOON, limit=9) == []


async def test_what_many_merge_side_by_side_is_all_there(another: Opener) -> None:
    stores = [await another(), await another()]
    await stores[0].create(new())
    pieces = [b'{"mediaContents":[{"mediaId":"m%d"}]}' % number for number in range(20)]
    await asyncio.gather(
        *(stores[n % 2].merge(KEY, piece, replace=False) for n, piece in enumerate(pieces))
    )
    found = await stores[0].observation(KEY)
    assert found is not None
    assert all(found.count(b'"m%d"' % number) == 1 for number in range(20))


async def test_executions_are_counted_by_their_status(store: Store) -> None:
    assert not any((await store.counts()).values())
    for number in range(5):
        await submitted(store, key=Key("tenant", f"e{number}"))
    await store.create(new(Key("tenant", "idle")))
    await finished(store, await claimed(store))
    await wrote(store, await claimed(store), 1, b"1", status=Status.RUNNING)
    await store.cancel(Key("tenant", "e2"), NOON)
    counts = {kind: count for kind, count in (await store.counts()).items() if count}
    assert counts == {
        Status.COMPLETED: 1,
        Status.RUNNING: 1,
        Status.CANCELLED: 1,
        Status.QUEUED: 2,
    }


async def test_the_queue_is_as_old_as_what_is_claimed_next(store: Store) -> None:
    assert await store.next_queued_at() is None
    for number in (2, 1):  # by its place in the queue, whatever the clocks of who queued it say
        await _queued(store, Key("tenant", f"e{number}"), NOON + number)
    await _queued(store, Key("tenant", "e2"), NOON + 3, "run-2")
    assert await store.next_queued_at() == NOON + 2
    first = await claimed(store)
    assert await store.next_queued_at() == NOON + 1
    await claimed(store)
    # What waits for another run of its own execution is not next before that has ended.
    assert await store.next_queued_at() is None
    await finished(store, first)
    assert await store.next_queued_at() == NOON + 3
    assert await store.delete(Key("tenant", "e2"))
    assert await store.next_queued_at() is None


async def _queued(store: Store, key: Key, at: float, run_id: str = "run-1") -> None:
    assert await store.submit(key, run_id, b"", (), queued_at=at, new=new(key), runs_max=9)


async def test_the_size_of_the_log_is_that_of_its_texts(store: Store) -> None:
    assert await store.log_bytes() == 0
    claim = await begun(store)
    await wrote(store, claim, 1, b"12345", b"678")
    await wrote(store, claim, 1, b"12345", b"678")
    assert await store.log_bytes() == 8
    await store.write(claim, 3, [b"9", b"10"], events_max=2)
    assert await store.log_bytes() == 3
    await store.finish(claim, 5, ending(Status.COMPLETED, b"end"), events_max=EVENTS_MAX)
    assert await store.log_bytes() == 6
    await store.delete(KEY)
    assert await store.log_bytes() == 0


async def test_executions_that_ended_long_ago_expire(store: Store) -> None:
    for number in range(4):
        await _ended(store, Key("tenant", f"e{number}"), NOON + number)
    await submitted(store, key=Key("tenant", "queued"))
    await submitted(store, key=Key("tenant", "running"))
    await claimed(store)
    assert await store.expire(NOON + 2, NOON + 2) == 2
    assert await store.expire(NOON + 2, NOON + 2) == 0
    assert sorted(await _ids(store)) == ["e2", "e3", "queued", "running"]
    assert await store.log_bytes() == 2 * len(b"end")


async def test_executions_that_never_ran_expire_by_when_they_were_made(store: Store) -> None:
    await store.create(new(Key("tenant", "old"), NOON))
    await store.create(new(Key("tenant", "young"), NOON + 9))
    assert await store.expire(NOON + 5, NOON + 5) == 1
    assert await _ids(store) == ["young"]


async def test_transient_executions_expire_by_a_time_of_their_own(store: Store) -> None:
    await _ended(store, Key("tenant", "kept"), NOON)
    await _ended(store, Key("tenant", "passing"), NOON, transient=True)
    await submitted(store, key=Key("tenant", "queued"), transient=True)
    assert await store.expire(NOON - 99, NOON + 1) == 1
    assert await _ids(store) == ["queued", "kept"]


async def test_a_transient_execution_stays_until_its_webhooks_have_been_told(store: Store) -> None:
    await submitted(store, transient=True)
    end = ending(Status.COMPLETED, deliveries=[delivery()])
    await finished(store, await claimed(store), end=end)
    assert await store.expire(NOON - 99, NOON + 99) == 0
    [message] = await store.due("holder", NOON, limit=9)
    assert await store.expire(NOON - 99, NOON + 99) == 0
    await store.delivered(message)
    assert await store.expire(NOON - 99, NOON + 99) == 1


async def test_however_many_expire_all_go_in_the_end(store: Store) -> None:
    for number in range(700):
        await store.create(new(Key("tenant", f"e{number}")))
    gone = []
    while expired := await store.expire(NOON + 1, NOON + 1):
        gone.append(expired)
    assert sum(gone) == 700
    assert await _ids(store) == []


async def test_what_was_acknowledged_is_there_when_it_is_opened_again(another: Opener) -> None:
    store = await another()
    await submitted(store, "run-1")
    claim = await claimed(store)
    await wrote(store, claim, 1, b"event", status=Status.RUNNING)
    await store.merge(KEY, OBSERVATION, replace=False)
    await store.close()
    again = await another()
    assert await status(again) is Status.RUNNING
    assert await again.observation(KEY) == OBSERVATION
    await finished(again, claim, 2)
    assert await status(again) is Status.COMPLETED


async def test_what_was_asked_before_closing_is_done(another: Opener) -> None:
    store = await another()
    asked = [
        asyncio.create_task(store.create(new(Key("tenant", f"e{number}")))) for number in range(50)
    ]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*asked) == [True] * 50
    assert len(await _ids(await another())) == 50
