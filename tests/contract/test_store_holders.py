"""What every store of executions promises of those who run: who lives, and who takes over."""

from __future__ import annotations

import asyncio

import pytest

from gateway.executions.records import Key, Status
from gateway.executions.store import Store, Superseded
from gateway.model import Media
from tests.support.stores import (
    KEY,
    NOON,
    Opener,
    begun,
    claimed,
    delivery,
    ending,
    finished,
    status,
    submitted,
    texts,
    wrote,
)
from tests.support.timing import patience

OTHER = Key("tenant", "other")


async def test_each_beat_counts_one_and_tells_of_all_holders(another: Opener) -> None:
    here, there = await another(), await another()
    assert (await here.beat("holder-1")).holders == {"holder-1": 1}
    assert (await there.beat("holder-2")).holders == {"holder-1": 1, "holder-2": 1}
    assert (await here.beat("holder-1")).holders == {"holder-1": 2, "holder-2": 1}


async def test_a_beat_tells_what_is_held(store: Store) -> None:
    assert (await store.beat("holder")).held == frozenset()
    await submitted(store)
    queued = await claimed(store)
    direct = await begun(store, "run-2", OTHER)
    assert (await store.beat("holder")).held == {(KEY, queued.turn), (OTHER, direct.turn)}
    assert (await store.beat("other")).held == frozenset()
    await finished(store, queued)
    await store.delete(OTHER)
    assert (await store.beat("holder")).held == frozenset()


async def test_direct_runs_that_somebody_has_attached_to_are_told_of_to_their_holders(
    another: Opener,
) -> None:
    here, there = await another(), await another()
    direct = await begun(here, "run-1")
    await submitted(here, "run-2")
    queued = await claimed(here)
    assert (await here.beat("holder")).adopted == frozenset()
    await there.adopt(KEY)
    await there.adopt(OTHER)
    beat = await here.beat("holder")
    assert beat.adopted == {(KEY, direct.turn)}
    assert (KEY, queued.turn) in beat.held
    assert (await there.beat("other")).adopted == frozenset()
    await finished(here, direct)
    assert (await here.beat("holder")).adopted == frozenset()


async def test_who_has_claimed_is_known_before_it_has_beaten(store: Store) -> None:
    await submitted(store)
    await claimed(store, "dead")
    holders = (await store.beat("living")).holders
    assert "dead" in holders
    taken = await store.take_over("dead", holders["dead"], "living", attempts_max=3)
    assert taken == ()
    assert (await claimed(store, "living")).attempt == 2


async def test_runs_of_the_dead_are_queued_again_in_their_old_places(store: Store) -> None:
    await submitted(store, "run-1")
    await submitted(store, "run-2")
    await submitted(store, "run-3", OTHER)
    await store.beat("dead")
    lost = await claimed(store, "dead")
    await wrote(store, lost, 1, b"begun", status=Status.RUNNING)
    assert await store.take_over("dead", 1, "living", attempts_max=3) == ()
    assert await status(store) is Status.QUEUED
    again = await claimed(store, "living")
    assert (again.run_id, again.attempt, again.payload) == ("run-1", 2, b"payload")
    assert again.turn > lost.turn
    assert (await claimed(store, "living")).run_id == "run-3"
    assert await store.claim("living", wait_s=0) is None
    await wrote(store, again, 1, b"begun again")
    assert await texts(store) == [b"begun", b"begun again"]


async def test_who_was_taken_for_dead_writes_nothing_any_more(store: Store) -> None:
    await submitted(store)
    await store.beat("slow")
    claim = await claimed(store, "slow")
    await store.take_over("slow", 1, "living", attempts_max=3)
    for again in (False, True):
        with pytest.raises(Superseded):
            await wrote(store, claim, 1, b"late", status=Status.RUNNING)
        with pytest.raises(Superseded):
            await finished(store, claim, end=ending(Status.COMPLETED, b"late"))
        with pytest.raises(Superseded):
            await store.release(claim)
        if not again:
            taken = await claimed(store, "living")
    await finished(store, taken, end=ending(Status.COMPLETED, b"end"))
    assert await texts(store) == [b"end"]
    assert (await store.beat("slow")).held == frozenset()


async def test_who_has_beaten_meanwhile_is_not_taken_over(store: Store) -> None:
    await submitted(store)
    await store.beat("holder")
    claim = await claimed(store, "holder")
    await store.beat("holder")
    assert await store.take_over("holder", 1, "other", attempts_max=3) is None
    assert await store.take_over("nobody", 1, "other", attempts_max=3) is None
    await finished(store, claim)
    assert await status(store) is Status.COMPLETED


async def test_only_one_of_two_takes_over(another: Opener) -> None:
    here, there = await another(), await another()
    for number in range(10):
        await here.beat("dead")
        key = Key("tenant", f"execution-{number}")
        await begun(here, "run-1", key, "dead")
        beats = (await here.beat("other")).holders["dead"]
        taken = await asyncio.gather(
            here.take_over("dead", beats, "one", attempts_max=3),
            there.take_over("dead", beats, "two", attempts_max=3),
        )
        [claims] = [each for each in taken if each is not None]
        assert [claim.key for claim in claims] == [key]


async def test_the_dead_are_forgotten(store: Store) -> None:
    await store.beat("dead")
    await store.take_over("dead", 1, "living", attempts_max=3)
    assert (await store.beat("living")).holders == {"living": 1}


async def test_a_direct_run_of_the_dead_is_handed_over_to_be_finished(store: Store) -> None:
    await store.beat("dead")
    lost = await begun(store, holder="dead")
    taken = await store.take_over("dead", 1, "living", attempts_max=3)
    assert taken is not None
    [claim] = taken
    assert (claim.key, claim.run_id, claim.holder, claim.direct) == (KEY, "run-1", "living", True)
    assert claim.turn > lost.turn
    with pytest.raises(Superseded):
        await finished(store, lost)
    assert (await store.beat("living")).held == {(KEY, claim.turn)}
    await finished(store, claim, end=ending(Status.FAILED, message="its replica died"))
    assert await status(store) is Status.FAILED


async def test_a_run_that_was_begun_often_enough_is_handed_over(store: Store) -> None:
    await submitted(store, media=[Media("m-1", b"png", "image/png")])
    await submitted(store, "run-2")
    for attempt in (1, 2):
        claim = await claimed(store, f"dead-{attempt}")
        assert claim.attempt == attempt
        beats = (await store.beat(f"dead-{attempt}")).holders[f"dead-{attempt}"]
        taken = await store.take_over(f"dead-{attempt}", beats, "living", attempts_max=2)
    assert taken is not None
    [last] = taken
    assert (last.run_id, last.attempt, last.payload) == ("run-1", 2, b"payload")
    assert last.turn > claim.turn
    assert await store.claim("living", wait_s=0) is None
    await finished(store, last, end=ending(Status.FAILED))
    assert (await claimed(store)).run_id == "run-2"


async def test_a_run_that_was_being_cancelled_is_handed_over(store: Store) -> None:
    await submitted(store)
    await store.beat("dead")
    await claimed(store, "dead")
    await store.cancel(KEY, NOON)
    taken = await store.take_over("dead", 1, "living", attempts_max=3)
    assert taken is not None
    [claim] = taken
    assert (await store.beat("living")).cancelled == {(KEY, claim.turn)}
    await finished(store, claim, end=ending(Status.CANCELLED))
    assert await status(store) is Status.CANCELLED


async def test_what_is_taken_over_wakes_a_claim_of_another_replica(another: Opener) -> None:
    here, there = await another(), await another()
    await submitted(here)
    await here.beat("dead")
    await claimed(here, "dead")
    claiming = asyncio.create_task(there.claim("other", wait_s=30))
    await asyncio.sleep(0.1)
    await here.take_over("dead", 1, "living", attempts_max=3)
    async with patience():
        claim = await claiming
    assert claim is not None
    assert claim.attempt == 2


async def test_deliveries_of_the_dead_are_due_again(store: Store) -> None:
    await store.add_deliveries([delivery()])
    assert len(await store.due("dead", NOON, limit=9)) == 1
    assert await store.due("living", NOON, limit=9) == []
    beats = (await store.beat("living")).holders["dead"]
    await store.take_over("dead", beats, "living", attempts_max=3)
    assert len(await store.due("living", NOON, limit=9)) == 1


async def test_who_leaves_is_forgotten(store: Store) -> None:
    await store.beat("holder")
    await store.leave("holder")
    await store.leave("holder")
    assert (await store.beat("other")).holders == {"other": 1}


async def test_who_leaves_with_something_in_its_hands_can_be_taken_over(store: Store) -> None:
    await submitted(store)
    await store.beat("holder")
    await claimed(store, "holder")
    await store.leave("holder")
    holders = (await store.beat("other")).holders
    assert await store.take_over("holder", holders["holder"], "other", attempts_max=3) == ()
    assert (await claimed(store, "other")).attempt == 2
