"""Alarms, many to one timer of the loop."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest

from gateway.alarms import Alarm, Alarms
from tests.support.timing import until

pytestmark = pytest.mark.own_time


def now_s() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


class Sleeper:
    """Notes when it was woken, and does then what ``then`` says."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.woken: list[float] = []
        self._then = then

    def wake(self) -> None:
        self.woken.append(now_s())
        self._then()


async def test_alarms_ring_in_the_order_of_their_moments_and_not_before() -> None:
    alarms, rung = Alarms(), list[int]()
    now = now_s()
    for number in (3, 1, 2, 0):
        alarms.set(now + number / 100, Sleeper(lambda number=number: rung.append(number)))  # type: ignore[misc]
    last = Sleeper()
    alarms.set(now + 0.05, last)
    await until(lambda: bool(last.woken))
    assert rung == [0, 1, 2, 3]
    assert last.woken[0] >= now + 0.05 - 0.001, "a loop may fire by whole milliseconds"


async def test_one_that_is_stopped_does_not_ring_and_nothing_of_its_sleeper_is_kept() -> None:
    alarms, gone, other = Alarms(), Sleeper(), Sleeper()
    stopped = alarms.set(now_s() + 0.005, gone)
    alarms.set(now_s() + 0.01, other)
    alarms.stop(stopped)
    alarms.stop(stopped)
    await until(lambda: bool(other.woken))
    assert gone.woken == []
    trace = weakref.ref(gone)
    del gone
    gc.collect()
    assert trace() is None


async def test_of_calls_that_are_over_long_before_their_limits_nothing_piles_up() -> None:
    alarms, waits = Alarms(), Sleeper()
    alarms.set(now_s() + 0.01, waits)
    for _ in range(10_000):
        alarms.stop(alarms.set(now_s() + 3600, Sleeper()))
    gc.collect()
    assert sum(isinstance(each, Alarm) for each in gc.get_objects()) < 200
    await until(lambda: bool(waits.woken))


async def test_who_is_woken_may_set_an_alarm_or_stop_another() -> None:
    alarms, again, never = Alarms(), Sleeper(), Sleeper()
    other = alarms.set(now_s() + 0.02, never)

    def then() -> None:
        alarms.stop(other)
        alarms.set(now_s(), again)

    alarms.set(now_s() + 0.005, Sleeper(then))
    await until(lambda: bool(again.woken))
    await asyncio.sleep(0.03)
    assert never.woken == []


async def test_one_that_fails_keeps_no_other_from_ringing() -> None:
    alarms, other = Alarms(), Sleeper()
    failures: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, told: failures.append(repr(told.get("exception"))))
    now = now_s()
    alarms.set(now, Sleeper(lambda: 1 / 0))
    alarms.set(now, other)
    await until(lambda: bool(other.woken))
    assert failures == ["ZeroDivisionError('division by zero')"]


async def test_many_that_ring_at_once_leave_others_a_turn() -> None:
    alarms, rung, seen = Alarms(), list[int](), list[int]()
    now = now_s()
    for number in range(1000):
        alarms.set(now, Sleeper(lambda number=number: rung.append(number)))  # type: ignore[misc]

    def note() -> None:
        seen.append(len(rung))
        if len(rung) < 1000:
            asyncio.get_running_loop().call_soon(note)

    note()
    await until(lambda: len(rung) == 1000)
    assert any(0 < count < 1000 for count in seen)
    assert rung == sorted(rung)
