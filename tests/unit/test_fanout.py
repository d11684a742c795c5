"""Actors side by side: one sequence of events, bounded, and nothing left when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError, UpstreamFailed
from gateway.fanout import Ended, Item, Opener, Waited, side_by_side
from gateway.model import Delta, Event


class Actors:
    """Actors whose events are told beforehand; counts those that are open, and what they gave."""

    def __init__(self) -> None:
        self.open = 0
        self.given = 0

    def saying(
        self, name: str, texts: list[str], *, error: Exception | None = None, endless: bool = False
    ) -> Opener:
        async def events() -> AsyncGenerator[Event]:
            self.open += 1
            try:
                for text in texts:
                    await asyncio.sleep(0)
                    self.given += 1
                    yield Delta(name, text, "0")
                while endless:
                    self.given += 1
                    yield Delta(name, "more", "0")
                if error is not None:
                    raise error
            finally:
                try:
                    await asyncio.sleep(0)  # closing takes a moment, too
                finally:
                    self.open -= 1

        return events


async def collect(actors: list[Opener]) -> list[Item]:
    clock = asyncio.get_running_loop().time
    return [item async for item in side_by_side(actors, Waited(), clock)]


def texts_of(items: list[Item], index: int) -> list[str]:
    return [event.message for n, event in items if n == index and isinstance(event, Delta)]


@given(said=st.lists(st.lists(st.text("xy", max_size=2), max_size=30), min_size=1, max_size=4))
def test_each_actors_events_come_whole_and_in_order_and_then_its_end(said: list[list[str]]) -> None:
    actors = Actors()
    openers = [actors.saying(str(n), texts) for n, texts in enumerate(said)]
    items = asyncio.run(collect(openers))
    for index, texts in enumerate(said):
        own = [event for n, event in items if n == index]
        assert texts_of(items, index) == texts
        assert own[-1] == Ended(None)
        assert sum(isinstance(event, Ended) for event in own) == 1
    assert actors.open == 0


@pytest.mark.parametrize("beside", [0, 2])
async def test_a_failure_is_an_end_and_the_others_go_on(beside: int) -> None:
    actors = Actors()
    error = UpstreamFailed("gone")
    openers = [actors.saying("a", ["1"], error=error)]
    openers += [actors.saying(str(n), ["x"] * 40) for n in range(beside)]
    items = await collect(openers)
    assert (0, Ended(error)) in items
    assert [texts_of(items, n) for n in range(1, beside + 1)] == [["x"] * 40] * beside


@pytest.mark.parametrize("beside", [0, 1])
async def test_a_fault_of_the_gateways_own_is_raised_and_ends_all(beside: int) -> None:
    actors = Actors()
    openers = [actors.saying("a", ["1"], error=ZeroDivisionError())]
    openers += [actors.saying("b", [], endless=True)] * beside
    with pytest.raises(ZeroDivisionError):
        await collect(openers)
    assert actors.open == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_closing_it_closes_every_actor_at_whatever_point(count: int) -> None:
    for taken in range(6):
        actors = Actors()
        openers = [actors.saying(str(n), [], endless=True) for n in range(count)]
        before = asyncio.all_tasks()
        clock = asyncio.get_running_loop().time
        async with aclosing(side_by_side(openers, Waited(), clock)) as items:
            for _ in range(taken):
                await anext(items)
        assert actors.open == 0
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("count", [1, 3])
async def test_being_cancelled_closes_every_actor(count: int, times: int) -> None:
    actors = Actors()

    async def run() -> None:
        openers = [actors.saying(str(n), [], endless=True) for n in range(count)]
        clock = asyncio.get_running_loop().time
        async with aclosing(side_by_side(openers, Waited(), clock)) as items:
            async for _ in items:
                await asyncio.sleep(0)

    task = asyncio.create_task(run())
    while not actors.given:
        await asyncio.sleep(0)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert actors.open == 0


async def test_actors_do_not_run_ahead_of_who_takes_their_events() -> None:
    actors = Actors()
    openers = [actors.saying(str(n), [], endless=True) for n in range(3)]
    clock = asyncio.get_running_loop().time
    async with aclosing(side_by_side(openers, Waited(), clock)) as items:
        await anext(items)
        for _ in range(200):
            await asyncio.sleep(0)
        assert actors.given <= 1 + 3 * (8 + 1)  # taken, waiting, and one in each hand


async def test_one_that_always_has_more_does_not_keep_another_from_its_turn() -> None:
    actors = Actors()
    openers = [actors.saying("fast", [], endless=True), actors.saying("slow", ["s"] * 5)]
    seen = 0
    clock = asyncio.get_running_loop().time
    async with aclosing(side_by_side(openers, Waited(), clock)) as items:
        async for index, event in items:
            seen += 1
            if index == 1 and isinstance(event, Ended):
                break
    assert seen < 500


async def test_the_wait_for_actors_is_counted() -> None:
    gate = asyncio.Event()
    now = 0.0

    def clock() -> float:
        return now

    async def events() -> AsyncGenerator[Event]:
        nonlocal now
        await gate.wait()
        now += 2.0
        yield Delta("a", "x", "0")

    make: Callable[[], AsyncGenerator[Event]] = events
    waited = Waited()
    asyncio.get_running_loop().call_soon(gate.set)
    items = [item async for item in side_by_side([make], waited, clock)]
    assert waited.upstream_s == 2.0
    assert isinstance(items[-1][1], Ended)
    assert not isinstance(items[-1][1].error, GatewayError)


async def test_the_wait_that_a_client_did_not_sit_out_is_not_the_gateways_own_time() -> None:
    now = 0.0

    async def silent() -> AsyncGenerator[Event]:
        await asyncio.Event().wait()
        yield Delta("a", "x", "0")

    waited = Waited()
    items = side_by_side([silent, silent], waited, lambda: now)
    asking = asyncio.ensure_future(anext(items))
    await asyncio.sleep(0)
    now = 5.0
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert waited.upstream_s == 5.0
