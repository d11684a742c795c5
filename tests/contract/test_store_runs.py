"""What every store of executions promises of runs: their order, who has them, how they end."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import Code, Overloaded, RequestRejected
from gateway.executions.records import Key, Status
from gateway.executions.store import Store, Superseded
from gateway.model import Media
from tests.support.stores import (
    EVENTS_MAX,
    KEY,
    LONGEST,
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
    texts,
    wrote,
)
from tests.support.timing import every_time, patience, promised

OTHER = Key("tenant", "other")
FIRST = b'{"mediaContents":[{"mediaId":"a","rawText":"one"}]}'
SECOND = b'{"mediaContents":[{"mediaId":"a","rawText":"two"}]}'
BOTH = b'{"mediaContents":[{"mediaId":"a","rawText":"one"},{"mediaId":"a","rawText":"two"}]}'


async def test_a_submitted_run_is_claimed_as_it_was_submitted(store: Store) -> None:
    media = (Media("media-1", b"\x00\xff" * 9, "image/png", "ä.png"), Media("m", b"", "text/plain"))
    await submitted(store, payload=b"\x00payload", media=media)
    claim = await claimed(store, "holder-1")
    assert (claim.key, claim.run_id, claim.turn, claim.attempt) == (KEY, "run-1", 1, 1)
    assert (claim.payload, claim.media, claim.holder) == (b"\x00payload", media, "holder-1")
    assert (claim.queued_at, claim.direct) == (NOON, False)


async def test_an_id_may_have_every_legal_character(store: Store) -> None:
    key = Key(LONGEST, LONGEST)
    await submitted(store, LONGEST, key, deliveries=[delivery(LONGEST, key=key, hook_id=LONGEST)])
    claim = await claimed(store, LONGEST)
    await finished(store, claim, end=ending(Status.COMPLETED, b"{}"))
    assert await status(store, key) is Status.COMPLETED
    assert await texts(store, key) == [b"{}"]
    assert [each.id for each in await store.due(LONGEST, NOON, limit=9)] == [LONGEST]


async def test_owners_that_end_as_anothers_ids_begin_are_told_apart(store: Store) -> None:
    for owner, execution_id in (("", "a"), ("a", "a"), ("a", "a.a"), ("a.a", "a"), ("a-a", "a")):
        await submitted(store, key=Key(owner, execution_id))
    assert await store.delete(Key("a", "a"))
    assert await store.get(Key("a", "a")) is None
    assert [one.key.id for one in await store.listed("a")] == ["a.a"]
    keys = [(await claimed(store)).key for _ in range(4)]
    assert keys == [("", "a"), ("a", "a.a"), ("a.a", "a"), ("a-a", "a")]


async def test_a_run_of_no_execution_is_not_queued(store: Store) -> None:
    assert not await store.submit(KEY, "run-1", b"", (), queued_at=NOON, runs_max=9)
    assert await store.claim("holder", wait_s=0) is None
    assert await store.begin(KEY, "run-1", "holder", queued_at=NOON) is None
    assert await store.get(KEY) is None


async def test_a_run_makes_its_execution_where_there_is_none(store: Store) -> None:
    assert await store.submit(
        KEY, "run-1", b"", (), queued_at=NOON, new=new(tag="first"), runs_max=9
    )
    assert await store.submit(
        KEY, "run-2", b"", (), queued_at=NOON, new=new(tag="second"), runs_max=9
    )
    found = await store.get(KEY)
    assert found is not None
    assert (found.tag, found.status, found.created_at) == ("first", Status.QUEUED, NOON)


async def test_the_same_run_submitted_again_is_one_run(store: Store) -> None:
    message = delivery()
    await submitted(store, deliveries=[message])
    await submitted(store, deliveries=[message])
    claim = await claimed(store)
    await submitted(store, deliveries=[message])
    await finished(store, claim)
    assert await store.claim("holder", wait_s=0) is None
    assert len(await store.due("holder", NOON, limit=9)) == 1


async def test_runs_of_one_execution_go_one_after_the_other(store: Store) -> None:
    await submitted(store, "run-1")
    await submitted(store, "run-2")
    await submitted(store, "run-3", OTHER)
    first, other = await claimed(store), await claimed(store)
    assert (first.run_id, other.run_id) == ("run-1", "run-3")
    assert await store.claim("holder", wait_s=0) is None
    await finished(store, first)
    second = await claimed(store)
    assert (second.run_id, second.turn) == ("run-2", 2)


async def test_runs_are_claimed_in_the_order_in_which_they_were_accepted(store: Store) -> None:
    for number in range(20):
        await submitted(store, f"run-{number}", Key("tenant", f"execution-{number % 5}"))
    order = []
    while (claim := await store.claim("holder", wait_s=0)) is not None:
        order.append(claim.run_id)
        await finished(store, claim)
    assert order == [f"run-{number}" for number in range(20)]


async def test_concurrent_claims_share_out_the_runs(another: Opener) -> None:
    stores = [await another(), await another()]
    for number in range(30):
        await submitted(stores[0], f"run-{number}", Key("tenant", f"execution-{number}"))
    claims = await asyncio.gather(
        *(stores[number % 2].claim(f"holder-{number % 2}", wait_s=0) for number in range(40))
    )
    runs = [claim.run_id for claim in claims if claim is not None]
    assert sorted(runs) == sorted(f"run-{number}" for number in range(30))


async def test_a_claim_that_finds_nothing_says_so_when_its_time_is_over(store: Store) -> None:
    async with patience():
        assert await store.claim("holder", wait_s=0) is None
        assert await store.claim("holder", wait_s=0.2) is None


@every_time
async def _a_waiting_claim_is_woken_soon(waiting: Store, submitting: Store, run_id: str) -> None:
    claiming = asyncio.create_task(waiting.claim("holder", wait_s=30))
    await asyncio.sleep(0.3)
    assert not claiming.done()
    async with promised(within_s=1.0):
        await submitted(submitting, run_id)
        claim = await claiming
    assert claim is not None
    await finished(waiting, claim)


async def test_a_waiting_claim_gets_a_run_as_soon_as_it_is_submitted(store: Store) -> None:
    await _a_waiting_claim_is_woken_soon(store, store, "run-1")


async def test_a_waiting_claim_gets_what_another_replica_submits(another: Opener) -> None:
    await _a_waiting_claim_is_woken_soon(await another(), await another(), "run-1")


async def test_a_waiting_claim_gets_the_next_run_when_the_one_before_ends(another: Opener) -> None:
    here, there = await another(), await another()
    await submitted(here, "run-1")
    await submitted(here, "run-2")
    first = await claimed(here)
    claiming = asyncio.create_task(there.claim("other", wait_s=30))
    await asyncio.sleep(0.2)
    assert not claiming.done()
    await finished(here, first)
    async with patience():
        second = await claiming
    assert second is not None
    assert second.run_id == "run-2"


async def test_a_claim_given_up_by_its_caller_takes_no_run(store: Store) -> None:
    claiming = asyncio.create_task(store.claim("holder", wait_s=30))
    await asyncio.sleep(0.1)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    await submitted(store)
    claim = await claimed(store, "other")
    assert (claim.turn >= 1, claim.attempt) == (True, 1)


async def test_claims_given_up_at_any_moment_leave_no_run_behind(store: Store) -> None:
    for number in range(25):
        key = Key("tenant", f"execution-{number}")
        claiming = asyncio.create_task(store.claim("holder", wait_s=30))
        submitting = asyncio.create_task(submitted(store, "run-1", key))
        await asyncio.sleep(0.0005 * (number % 10))
        claiming.cancel()
        await submitting
        [claim] = await asyncio.gather(claiming, return_exceptions=True)
        if isinstance(claim, BaseException) or claim is None:
            claim = await claimed(store, "other", wait_s=30)
        assert claim.key == key
        assert claim.attempt == 1
        await finished(store, claim)


async def test_no_more_runs_are_queued_than_may_be(store: Store) -> None:
    await submitted(store, "run-1", runs_max=2)
    await submitted(store, "run-2", runs_max=2)
    with pytest.raises(Overloaded) as caught:
        await submitted(store, "run-3", OTHER, runs_max=2)
    assert caught.value.code is Code.OVERLOADED
    assert caught.value.retry_after_s is not None
    assert await store.get(OTHER) is None
    await claimed(store)
    await submitted(store, "run-3", OTHER, runs_max=2)


async def test_an_execution_is_queued_until_its_run_says_otherwise(store: Store) -> None:
    await submitted(store)
    claim = await claimed(store)
    assert await status(store) is Status.QUEUED
    await wrote(store, claim, 1, b'{"n":1}', status=Status.RUNNING)
    assert await status(store) is Status.RUNNING
    await submitted(store, "run-2")
    assert await status(store) is Status.RUNNING
    await finished(store, claim, 2)
    assert await status(store) is Status.QUEUED
    await finished(store, await claimed(store))
    assert await status(store) is Status.COMPLETED


async def test_how_a_run_ended_is_told_until_the_next_is_queued(store: Store) -> None:
    await submitted(store)
    failed = ending(Status.FAILED, message="the reason", at=NOON + 7)
    await finished(store, await claimed(store), end=failed)
    found = await store.get(KEY)
    assert found is not None
    assert (found.status, found.message) == (Status.FAILED, "the reason")
    assert (found.completed_at, found.duration_s) == (NOON + 7, 2.0)
    await submitted(store, "run-2")
    again = await store.get(KEY)
    assert again is not None
    assert (again.status, again.message, again.completed_at) == (Status.QUEUED, None, None)


async def test_a_run_that_has_ended_cannot_be_written_to(store: Store) -> None:
    await submitted(store)
    claim = await claimed(store)
    await finished(store, claim, end=ending(Status.COMPLETED, b"end", observation=FIRST))
    with pytest.raises(Superseded):
        await wrote(store, claim, 2, b"late", status=Status.RUNNING)
    with pytest.raises(Superseded):
        await finished(store, claim, 1, ending(Status.FAILED, b"end", observation=FIRST))
    with pytest.raises(Superseded):
        await store.release(claim)
    assert await status(store) is Status.COMPLETED
    assert await store.observation(KEY) == FIRST
    assert await texts(store) == [b"end"]


async def test_a_run_of_a_removed_execution_cannot_be_written_to(store: Store) -> None:
    await submitted(store)
    claim = await claimed(store)
    assert await store.delete(KEY)
    with pytest.raises(Superseded):
        await wrote(store, claim, 1, b"late")
    await submitted(store, "run-2")
    second = await claimed(store)
    with pytest.raises(Superseded):
        await finished(store, claim)
    with pytest.raises(Superseded):
        await store.release(claim)
    await finished(store, second)
    assert await texts(store) == []


async def test_a_finished_run_adds_its_observation_once(store: Store) -> None:
    for run_id, observation in (("run-1", FIRST), ("run-2", SECOND)):
        await submitted(store, run_id)
        await finished(store, await claimed(store), end=ending(observation=observation))
    assert await store.observation(KEY) == BOTH


async def test_an_idempotent_run_replaces_what_it_found_before(store: Store) -> None:
    for run_id, observation in (("run-1", FIRST), ("run-2", SECOND)):
        await submitted(store, run_id)
        end = ending(observation=observation, replace=True)
        await finished(store, await claimed(store), end=end)
    assert await store.observation(KEY) == SECOND


async def test_an_observation_that_does_not_fit_ends_nothing(store: Store) -> None:
    await submitted(store)
    await finished(store, await claimed(store), end=ending(observation=FIRST))
    await submitted(store, "run-2")
    claim = await claimed(store)
    with pytest.raises(RequestRejected):
        await finished(
            store, claim, end=ending(Status.COMPLETED, b"end", observation=b'{"mediaContents":1}')
        )
    assert await store.observation(KEY) == FIRST
    assert await texts(store) == []
    await finished(store, claim, end=ending(Status.FAILED, b"end", message="no observation"))
    assert await status(store) is Status.FAILED


async def test_runs_that_end_side_by_side_all_add_what_they_found(another: Opener) -> None:
    stores = [await another(), await another()]
    claims = [await begun(stores[n % 2], f"run-{n}", holder=f"holder-{n}") for n in range(12)]
    await asyncio.gather(
        *(
            finished(
                stores[n % 2],
                claim,
                end=ending(observation=b'{"mediaContents":[{"mediaId":"m%d"}]}' % n),
            )
            for n, claim in enumerate(claims)
        )
    )
    found = await stores[0].observation(KEY)
    assert found is not None
    assert all(found.count(b'"m%d"' % n) == 1 for n in range(12))


async def test_a_released_run_goes_back_to_its_place_and_was_no_attempt(store: Store) -> None:
    await submitted(store, "run-1")
    await submitted(store, "run-2")
    await submitted(store, "run-3", OTHER)
    claim = await claimed(store)
    await wrote(store, claim, 1, b"begun", status=Status.RUNNING)
    await store.release(claim)
    assert await status(store) is Status.QUEUED
    with pytest.raises(Superseded):
        await wrote(store, claim, 2, b"late")
    with pytest.raises(Superseded):
        await store.release(claim)
    again = await claimed(store, "other")
    assert (again.run_id, again.attempt, again.payload) == ("run-1", 1, b"payload")
    assert again.turn > claim.turn
    assert (await claimed(store)).run_id == "run-3"
    assert await store.claim("holder", wait_s=0) is None


async def test_a_released_run_wakes_a_claim_of_another_replica(another: Opener) -> None:
    here, there = await another(), await another()
    await submitted(here)
    claim = await claimed(here)
    claiming = asyncio.create_task(there.claim("other", wait_s=30))
    await asyncio.sleep(0.1)
    await here.release(claim)
    async with patience():
        assert await claiming is not None


async def test_a_direct_run_goes_beside_the_queued_ones(store: Store) -> None:
    await submitted(store, "run-1")
    direct = await begun(store, "run-2")
    assert (direct.direct, direct.attempt, direct.run_id) == (True, 1, "run-2")
    queued = await claimed(store)
    assert queued.run_id == "run-1"
    assert queued.turn != direct.turn
    await wrote(store, direct, 1, b"direct", status=Status.RUNNING)
    await finished(store, queued)
    assert await status(store) is Status.RUNNING
    await finished(store, direct, 2, ending(Status.FAILED))
    assert await status(store) is Status.FAILED


async def test_a_direct_run_begun_again_is_the_same_turn(store: Store) -> None:
    first = await begun(store)
    again = await begun(store)
    assert (again.turn, again.attempt) == (first.turn, first.attempt)
    await finished(store, again)
    assert await status(store) is Status.COMPLETED


async def test_a_write_keeps_its_deliveries_once(store: Store) -> None:
    await submitted(store)
    claim = await claimed(store)
    for _ in range(2):
        await store.write(
            claim,
            1,
            [b"1"],
            status=Status.RUNNING,
            deliveries=[delivery("message-1")],
            events_max=EVENTS_MAX,
        )
    assert await texts(store) == [b"1"]
    assert [each.id for each in await store.due("holder", NOON, limit=9)] == ["message-1"]
