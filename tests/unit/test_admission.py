"""How many calls run at once, and who waits."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.admission import Admission, Refused

#: Nobody waits, and nothing comes late.
pytestmark = pytest.mark.own_time


def admission(*, running_max: int = 1, waiting_max: int = 10, wait_s: float = 30.0) -> Admission:
    return Admission(running_max=running_max, waiting_max=waiting_max, wait_s=wait_s)


async def enter(of: Admission, ends_at: float | None = None) -> bool:
    place = of.enter()
    assert not isinstance(place, Refused)
    return True if place is None else await of.wait(place, ends_at)


async def test_calls_beyond_the_limit_wait_in_the_order_they_came() -> None:
    it = admission(running_max=2)
    assert it.enter() is None
    assert it.enter() is None
    order: list[int] = []

    async def call(n: int) -> None:
        assert await enter(it)
        order.append(n)
        it.leave()

    calls = [asyncio.create_task(call(n)) for n in range(5)]
    await asyncio.sleep(0)
    assert (it.running, it.waiting) == (2, 5)
    it.leave()
    await asyncio.gather(*calls)
    assert order == [0, 1, 2, 3, 4]
    assert (it.running, it.waiting) == (1, 0)


async def test_a_full_queue_refuses_at_once() -> None:
    it = admission(waiting_max=0)
    assert it.enter() is None
    assert it.enter() is Refused.QUEUE
    it.leave()
    assert it.enter() is None


@pytest.mark.parametrize("wait_s", [0.02, 30.0])
async def test_who_waits_too_long_is_told_so_and_leaves_the_queue(wait_s: float) -> None:
    it = admission(wait_s=wait_s)
    assert it.enter() is None
    ends_at = None if wait_s < 1 else asyncio.get_running_loop().time() + 0.02
    assert not await enter(it, ends_at)
    assert (it.running, it.waiting) == (1, 0)
    it.leave()
    assert it.running == 0


async def test_those_who_give_up_do_not_pile_up_behind_a_call_that_runs_for_long() -> None:
    it = admission(waiting_max=3)
    assert it.enter() is None
    for _ in range(10):
        waiting = asyncio.create_task(enter(it))
        await asyncio.sleep(0)
        assert it.waiting == 1
        waiting.cancel()
        await asyncio.wait([waiting])
    assert it.waiting == 0


@pytest.mark.parametrize("first", ["leave", "cancel"])
async def test_no_slot_is_lost_to_a_cancellation_at_the_same_moment(first: str) -> None:
    it = admission()
    assert it.enter() is None
    unlucky = asyncio.create_task(enter(it))
    next_one = asyncio.create_task(enter(it))
    await asyncio.sleep(0)
    for step in ("leave", "cancel") if first == "leave" else ("cancel", "leave"):
        if step == "leave":
            it.leave()
        else:
            unlucky.cancel()
    assert await next_one
    assert unlucky.cancelled()
    assert it.running == 1


async def test_a_slot_that_comes_as_the_wait_ends_is_not_lost() -> None:
    it = admission()
    assert it.enter() is None
    waiting = asyncio.create_task(enter(it, asyncio.get_running_loop().time()))
    await asyncio.sleep(0.01)
    assert await waiting is False
    waiting = asyncio.create_task(enter(it, asyncio.get_running_loop().time() + 0.01))
    await asyncio.sleep(0)
    it.leave()
    assert await waiting is True
    it.leave()
    assert it.running == 0


async def test_any_mixture_of_calls_ends_with_every_slot_free() -> None:
    draw = random.Random(7)
    it = admission(running_max=3, waiting_max=20, wait_s=0.01)
    most = 0

    async def call() -> None:
        nonlocal most
        place = it.enter()
        if isinstance(place, Refused) or (place is not None and not await it.wait(place, None)):
            return
        most = max(most, it.running)
        try:
            await asyncio.sleep(draw.random() * 0.005)
        finally:
            it.leave()

    calls = []
    for _ in range(300):
        calls.append(asyncio.create_task(call()))
        if draw.random() < 0.3:
            draw.choice(calls).cancel()
        if draw.random() < 0.2:
            await asyncio.sleep(draw.random() * 0.005)
    await asyncio.wait(calls)
    assert most == 3
    assert (it.running, it.waiting) == (0, 0)
