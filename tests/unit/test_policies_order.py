"""In which order upstreams are tried, and when each is started."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from gateway.guard import Deadlines
from gateway.pipeline_sections import Policy
from gateway.policies import Candidate, take
from tests.support.contests import NAMES, POLICIES, Contest, failed, says
from tests.support.fakes import CALL, FOREVER, FakeUpstream, Guarded

#: Nobody waits, and nothing comes late.
pytestmark = pytest.mark.own_time


async def test_a_hedge_starts_the_next_after_the_p95_of_the_first() -> None:
    it = Contest([[FOREVER], [FOREVER], says("c")], Policy.HEDGE, hedge_after_s=None)
    for guarded in it.guarded:
        for _ in range(20):
            guarded.guard.latency.note(0.03, guarded.clock())
    clock = asyncio.get_running_loop().time
    began = clock()
    assert await it.run() == says("c")
    assert clock() - began == pytest.approx(0.06)
    assert it.ended("a", "superseded") == it.ended("b", "superseded") == 1
    await it.assert_nothing_is_left()


async def test_a_hedge_without_enough_calls_to_go_by_waits_a_second() -> None:
    it = Contest([[0.1, *says("a")], says("b")], Policy.HEDGE, hedge_after_s=None)
    assert await it.run() == says("a")
    assert it.opened == "a"


async def test_a_hedge_goes_on_at_once_where_one_fails() -> None:
    it = Contest([[failed("a")], says("b")], Policy.HEDGE, hedge_after_s=60)
    assert await it.run() == says("b")


@pytest.mark.parametrize("policy", [each for each in POLICIES if each is not Policy.RACE])
async def test_one_that_just_failed_comes_last(policy: Policy) -> None:
    it = Contest([says("a"), [0.01, *says("b")]], policy, weights=(1.0, 0.0), hedge_after_s=60)
    it.guarded[0].guard.saw(failed("a"))
    assert await it.run() == says("b")
    assert it.opened == "b"


async def test_least_busy_takes_the_better_of_two() -> None:
    taken: Counter[str] = Counter()
    for seed in range(60):
        it = Contest([says(name) for name in NAMES], Policy.LEAST_BUSY, seed=seed)
        for guarded, taken_s in zip(it.guarded, (0.3, 0.2, 0.1), strict=True):
            guarded.guard.latency.note(taken_s, guarded.clock())
        await it.run()
        taken[it.taken[0]] += 1
    assert taken["a"] == 0, "it is the worse of any two"
    assert taken["c"] > taken["b"] > 0, "not everybody goes to the best"


async def test_the_same_sticky_key_stays_and_weights_are_shares() -> None:
    taken: Counter[str] = Counter()
    for key in range(300):
        names = []
        for seed in (1, 2) if key < 50 else (1,):
            it = Contest(
                [says(name) for name in NAMES],
                Policy.WEIGHTED,
                weights=(6.0, 3.0, 1.0),
                sticky=f"user {key}",
                seed=seed,
            )
            await it.run()
            names += it.taken
        assert len(set(names)) == 1
        taken[names[0]] += 1
    assert taken["a"] == pytest.approx(180, abs=30)
    assert taken["b"] == pytest.approx(90, abs=30)


async def test_without_a_sticky_key_each_call_is_drawn() -> None:
    taken: Counter[str] = Counter()
    for seed in range(200):
        it = Contest([says("a"), says("b")], Policy.WEIGHTED, weights=(3.0, 1.0), seed=seed)
        await it.run()
        taken[it.taken[0]] += 1
    assert taken["a"] == pytest.approx(150, abs=25)


async def test_weight_0_is_for_when_all_others_fail() -> None:
    it = Contest([says("a"), [failed("b")]], Policy.WEIGHTED, weights=(0.0, 1.0))
    assert await it.run() == says("a")
    assert it.opened == "ab"


async def test_without_one_candidate_only_its_own_calls_move() -> None:
    async def homes(weights: Sequence[float]) -> list[str]:
        found = []
        for key in range(100):
            it = Contest(
                [says(name) for name in NAMES], Policy.WEIGHTED, weights=weights, sticky=f"{key}"
            )
            await it.run()
            found += it.taken
        return found

    with_all, without_c = await homes((1.0, 1.0, 1.0)), await homes((1.0, 1.0, 0.0))
    for before, after in zip(with_all, without_c, strict=True):
        assert after == before or before == "c"
    assert "c" in with_all
    assert "c" not in without_c


async def test_the_same_upstream_with_two_pipelines_shares_its_calls() -> None:
    upstream = Guarded(FakeUpstream(says("x")))
    taken: Counter[int] = Counter()
    for key in range(100):
        events = take(
            [
                Candidate(
                    upstream.guard,
                    1.0,
                    lambda fate: upstream.guard.stream(CALL, Deadlines(60, 60), fate),
                )
            ]
            * 2,
            Policy.WEIGHTED,
            hedge_after_s=None,
            sticky=f"{key}",
            taken=lambda index: taken.update([index]),
            random=random.Random(1),
            clock=upstream.clock,
        )
        async with aclosing(events):
            assert [event async for event in events] == says("x")
    assert taken[0] == pytest.approx(50, abs=20)
