"""Whatever is asked of a store in whatever order, its counts are those of what is there, nothing is
run twice at once, and everything can be brought to an end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from gateway.executions.records import BEGINNING, Claim, Key, Status
from gateway.executions.store import Store, Superseded
from tests.support.stores import NOON, Opener, ending, finished, new, submitted, wrote

KEYS = [Key("tenant", f"execution-{number}") for number in range(5)]
HOLDERS = ["one", "two", "three"]
STEPS = 150


class _Anyone:
    """Does one thing after the other, and knows who should have which run in his hands."""

    def __init__(self, store: Store, chance: random.Random) -> None:
        self._store = store
        self._chance = chance
        self._runs = 0
        self.held: dict[tuple[Key, int], Claim] = {}
        self._written: Counter[tuple[Key, int]] = Counter()

    async def step(self) -> None:
        """Do something."""
        steps: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self._submit),
            (6, self._claim),
            (4, self._write),
            (4, self._finish),
            (2, self._begin),
            (1, self._release),
            (1, self._cancel),
            (1, self._delete),
            (1, self._take_over),
        ]
        weights = [weight for weight, _ in steps]
        [(_, step)] = self._chance.choices(steps, weights)
        await step()

    def _key(self) -> Key:
        return self._chance.choice(KEYS)

    def _run_id(self) -> str:
        self._runs += 1
        return f"run-{self._runs}"

    def _one(self) -> Claim | None:
        return self._chance.choice(list(self.held.values())) if self.held else None

    def _take(self, claim: Claim) -> None:
        for other in self.held.values():
            assert claim.direct or other.direct or other.key != claim.key, "two at once"
        self.held[claim.key, claim.turn] = claim

    async def _submit(self) -> None:
        transient = self._chance.random() < 0.3
        await submitted(self._store, self._run_id(), self._key(), transient=transient)

    async def _claim(self) -> None:
        claim = await self._store.claim(self._chance.choice(HOLDERS), wait_s=0)
        if claim is not None:
            self._take(claim)

    async def _begin(self) -> None:
        key, holder = self._key(), self._chance.choice(HOLDERS)
        claim = await self._store.begin(key, self._run_id(), holder, queued_at=NOON, new=new(key))
        assert claim is not None
        self._take(claim)

    async def _write(self) -> None:
        claim = self._one()
        if claim is not None:
            place = claim.key, claim.turn
            self._written[place] += 1
            await wrote(self._store, claim, self._written[place], b"x", status=Status.RUNNING)

    async def _finish(self) -> None:
        claim = self._one()
        if claim is not None:
            place = claim.key, claim.turn
            end = ending(self._chance.choice([Status.COMPLETED, Status.FAILED]), b"end")
            await finished(self._store, claim, self._written[place] + 1, end)
            del self.held[place]
            with pytest.raises(Superseded):
                await finished(self._store, claim, self._written[place] + 1, end)

    async def _release(self) -> None:
        claim = self._one()
        if claim is not None and not claim.direct:
            await self._store.release(claim)
            del self.held[claim.key, claim.turn]

    async def _cancel(self) -> None:
        await self._store.cancel(self._key(), NOON)

    async def _delete(self) -> None:
        key = self._key()
        await self._store.delete(key)
        self._forget(lambda claim: claim.key == key)

    async def _take_over(self) -> None:
        dead, by = self._chance.sample(HOLDERS, 2)
        beats = (await self._store.beat(by)).holders.get(dead)
        if beats is not None:
            taken = await self._store.take_over(dead, beats, by, attempts_max=2)
            assert taken is not None
            self._forget(lambda claim: claim.holder == dead)
            for claim in taken:
                self._take(claim)

    def _forget(self, gone: Callable[[Claim], bool]) -> None:
        self.held = {place: claim for place, claim in self.held.items() if not gone(claim)}


async def _agrees(store: Store, anyone: _Anyone) -> None:
    """What the store counts and tells is what is there."""
    executions = await store.listed("tenant")
    there = Counter(execution.status for execution in executions)
    assert {status: n for status, n in (await store.counts()).items() if n} == there
    size = 0
    for execution in executions:
        page = await store.events(execution.key, BEGINNING)
        assert page is not None
        size += sum(len(event.text) for event in page.events)
        assert execution.status is not None
        assert page.ended is execution.status.ended
    assert await store.log_bytes() == size
    for holder in HOLDERS:
        beat = await store.beat(holder)
        assert beat.held == {
            place for place, claim in anyone.held.items() if claim.holder == holder
        }
        assert beat.cancelled <= beat.held


@pytest.mark.parametrize("seed", range(4))
async def test_in_any_order_everything_adds_up(another: Opener, seed: int) -> None:
    store = await another()
    anyone = _Anyone(store, random.Random(seed))
    for number in range(STEPS):
        await anyone.step()
        if number % 10 == 0:
            await _agrees(store, anyone)
    for claim in anyone.held.values():
        await store.finish(claim, 1000, ending(), events_max=1000)
    while (left := await store.claim("one", wait_s=0)) is not None:
        await finished(store, left)
    anyone.held.clear()
    await _agrees(await another(), anyone)
    for execution in await store.listed("tenant"):
        assert execution.status is not None
        assert execution.status.ended
