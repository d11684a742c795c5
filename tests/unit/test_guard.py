"""What keeps one upstream's calls steady: limits, turns, load, checks."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from gateway.errors import (
    Code,
    Outcome,
    Overloaded,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.guard import Deadlines, Fate
from gateway.model import Event
from tests.support.fakes import CALL, FOREVER, Clock, FakeUpstream, Guarded, leftovers, piece
from tests.support.guards import (
    ALIVE,
    BROKEN,
    LONG,
    UNREACHABLE,
    busy,
    open_breaker,
    read,
    refused,
)

#: Nobody waits, and nothing comes late.
pytestmark = pytest.mark.own_time


async def test_a_good_call_is_passed_on_and_counted_once() -> None:
    it = Guarded(FakeUpstream([ALIVE, piece("a"), piece("b")]))
    assert it.count("up") is None, "nothing is known before the first call"
    assert await read(it) == [ALIVE, piece("a"), piece("b")]
    assert it.count("requests_total", outcome="complete") == 1
    assert it.count("first_event_seconds_count") == 1
    assert it.count("duration_seconds_count") == 1
    assert it.count("running") == it.count("waiting") == it.count("breaker") == 0
    assert it.count("up") == 1
    assert it.guard.answers is True


LIMITS: dict[str, tuple[list[Any], Deadlines, str]] = {
    "nothing comes": ([FOREVER], Deadlines(0.03, 9), "sent nothing within 0.03 s (first_event_s)"),
    "signs of life are no event": (
        [ALIVE, 0.02, ALIVE, 0.02, ALIVE, FOREVER],
        Deadlines(0.05, 0.03),
        "sent nothing within 0.05 s (first_event_s)",
    ),
    "then nothing": (
        [piece("a"), FOREVER],
        Deadlines(9, 0.03),
        "sent nothing within 0.03 s (idle_s)",
    ),
}


@pytest.mark.parametrize("case", LIMITS)
async def test_a_limit_that_runs_out_ends_the_call_and_its_work(case: str) -> None:
    script, deadlines, message = LIMITS[case]
    it = Guarded(FakeUpstream(script))
    async with asyncio.timeout(2):
        error = await refused(it, deadlines, UpstreamTimeout)
    assert error.message == f"upstream up: {message}"
    assert it.upstream.open == 0
    assert it.upstream.opened == 1, "what may still be running is not made again"
    assert it.count("requests_total", outcome="timeout") == 1
    assert it.count("up") == 0
    assert it.guard.answers is False


@pytest.mark.parametrize("key", ["total_s", "stream_total_s"])
async def test_the_whole_has_a_limit_of_its_own(key: str) -> None:
    it = Guarded(FakeUpstream([piece("a"), *[0.01, piece("b")] * 99]))
    ends_at = it.clock() + 0.05
    error = await refused(it, Deadlines(9, 9, ends_at, 0.05, key), UpstreamTimeout)
    assert error.message == f"upstream up: was not done within 0.05 s ({key})"
    assert it.upstream.open == 0
    assert it.guard.answers is True, "one that was sending has not failed"


async def test_a_slow_stream_goes_on_as_long_as_something_comes() -> None:
    it = Guarded(FakeUpstream([piece("a"), *[0.02, ALIVE] * 9, 0.02, piece("b")]))
    assert (await read(it, Deadlines(0.15, 0.15)))[-1] == piece("b")


async def test_the_caller_may_take_longer_than_the_limits() -> None:
    it = Guarded(FakeUpstream([piece("a"), piece("b"), 0.01, piece("c")]))
    taken = []
    async with aclosing(it.guard.stream(CALL, Deadlines(0.03, 0.03), Fate())) as events:
        async for event in events:
            taken.append(event)
            await asyncio.sleep(0.06)
    assert taken == [piece("a"), piece("b"), piece("c")]


async def test_an_upstream_does_not_fail_for_a_caller_who_waits_less_than_it_usually_takes() -> (
    None
):
    it = Guarded(FakeUpstream([0.02, piece("a")]), breaker={"failures": 1})
    for _ in range(20):
        await read(it)
    await refused(it, Deadlines(0.002, 9), UpstreamTimeout)
    assert it.count("breaker") == 0
    assert it.guard.answers is True
    it.upstream.scripts = [[FOREVER]]
    await refused(it, Deadlines(0.2, 9), UpstreamTimeout)
    assert it.count("breaker") == 2


async def test_a_little_time_left_by_others_is_no_fault_of_the_upstream() -> None:
    it = Guarded(FakeUpstream([FOREVER]), breaker={"failures": 1})
    await refused(it, Deadlines(9, 9, it.clock() + 0.01, 30), UpstreamTimeout)
    assert it.count("breaker") == 0
    assert it.guard.answers is None
    await refused(it, Deadlines(9, 9, it.clock() + 0.01, 0.01), UpstreamTimeout)
    assert it.count("breaker") == 2


@pytest.mark.parametrize("order", ["limit first", "caller first"])
async def test_a_caller_who_leaves_as_a_limit_runs_out_is_not_told_of_it(order: str) -> None:
    it = Guarded(FakeUpstream([FOREVER]))
    loop = asyncio.get_running_loop()
    at = loop.time() + 0.02
    task = asyncio.create_task(read(it, Deadlines(9, 9, at, 0.02)))
    if order == "caller first":
        loop.call_at(at, task.cancel)
    await asyncio.sleep(0)
    if order == "limit first":
        loop.call_at(at, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert it.upstream.open == 0
    assert it.count("requests_total", outcome="client_gone") == 1


async def test_a_limit_leaves_its_caller_fit_to_be_cancelled_later() -> None:
    it = Guarded(FakeUpstream([FOREVER]))

    async def call() -> None:
        await refused(it, Deadlines(0.01, 9), UpstreamTimeout)
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0
        async with asyncio.timeout(0.01):
            await asyncio.sleep(FOREVER)

    with pytest.raises(TimeoutError):
        await asyncio.create_task(call())


class Stubborn(FakeUpstream):
    """Finishes an event although it was told to stop."""

    async def stream(self, call: object) -> AsyncGenerator[Event]:
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            yield piece("late")


async def test_an_event_that_comes_in_spite_of_the_limit_is_passed_on() -> None:
    it = Guarded(Stubborn([]))
    assert await read(it, Deadlines(0.01, 9)) == [piece("late")]
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


@pytest.mark.parametrize("outcome", [Outcome.CLIENT_GONE, Outcome.SUPERSEDED])
@pytest.mark.parametrize("when", ["silent", "after an event", "closed between events"])
async def test_a_call_that_is_given_up_is_closed_and_counted_as_its_fate_says(
    outcome: Outcome, when: str
) -> None:
    it = Guarded(FakeUpstream([FOREVER] if when == "silent" else [piece("a"), FOREVER]))
    fate = Fate(outcome)
    if when == "closed between events":
        stream = it.guard.stream(CALL, LONG, fate)
        assert await anext(stream) == piece("a")
        await stream.aclose()
    else:
        task = asyncio.create_task(read(it, LONG, fate))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
    assert it.upstream.open == 0
    assert it.count("requests_total", outcome=outcome) == 1
    assert it.count("running") == 0
    assert await leftovers() == []


async def test_the_queue_has_an_end_and_those_who_run_keep_their_pace() -> None:
    it = Guarded(
        FakeUpstream([*[0.005, piece("a")] * 10]),
        concurrency={"running_max": 1, "waiting_max": 1},
    )
    running, waiting = (asyncio.create_task(read(it)) for _ in range(2))
    await asyncio.sleep(0.01)
    assert it.count("running") == it.count("waiting") == 1
    began = it.clock()
    for _ in range(100):
        error = await refused(it, error=Overloaded)
    assert it.clock() == began, "nothing is waited for"
    assert error.status == 503
    assert error.retry_after_s == 1
    assert error.message == "upstream up: too many calls wait for it already (1)"
    assert it.count("refused_total", reason="queue") == 100
    assert len(await running) == len(await waiting) == 10
    assert it.count("running") == it.count("waiting") == 0


@pytest.mark.parametrize("limit", ["wait_s", "total_s"])
async def test_who_waits_too_long_for_a_turn_is_told_so(limit: str) -> None:
    it = Guarded(
        FakeUpstream([FOREVER]),
        concurrency={"running_max": 1, "wait_s": 0.02 if limit == "wait_s" else 9},
    )
    running = asyncio.create_task(read(it))
    await asyncio.sleep(0)
    ends_at = it.clock() + 0.02 if limit == "total_s" else None
    error = await refused(it, Deadlines(60, 60, ends_at, 0.02), Overloaded)
    assert error.message.startswith("upstream up: no call ended within the 0.02")
    assert it.count("refused_total", reason="wait") == 1
    running.cancel()
    await asyncio.wait([running])
    assert it.count("running") == it.count("waiting") == 0


async def test_those_who_wait_as_the_breaker_opens_are_refused_by_it() -> None:
    it = Guarded(
        FakeUpstream([0.02, BROKEN]), concurrency={"running_max": 1}, breaker={"failures": 1}
    )
    calls = [asyncio.create_task(refused(it)) for _ in range(4)]
    codes = [(await call).code for call in calls]
    assert codes == [Code.UPSTREAM_FAILED, *[Code.UPSTREAM_UNAVAILABLE] * 3]
    assert it.upstream.opened == 1
    assert it.count("running") == 0


async def test_cancelling_one_who_waits_loses_no_slot() -> None:
    it = Guarded(FakeUpstream([0.01, piece("a")]), concurrency={"running_max": 1})
    calls = [asyncio.create_task(read(it)) for _ in range(4)]
    await asyncio.sleep(0)
    calls[1].cancel()
    await asyncio.wait(calls)
    assert [call.cancelled() for call in calls] == [False, True, False, False]
    assert it.count("running") == it.count("waiting") == 0
    assert it.guard.admission.running == 0


async def test_a_failure_of_just_now_makes_it_second_choice_for_a_while() -> None:
    clock = Clock()
    it = Guarded(FakeUpstream([BROKEN]), clock)
    assert it.guard.available()
    await refused(it)
    assert not it.guard.available()
    clock.forward(3.1)
    assert it.guard.available(), "where only calls ask after it, one has to be made"


async def test_its_load_is_its_live_latency_times_its_calls() -> None:
    it = Guarded(FakeUpstream([0.02, piece("a"), FOREVER]))
    assert it.guard.load() == 0, "one that was never tried is tried"
    async with aclosing(it.guard.stream(CALL, LONG, Fate())) as events:
        first = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert it.guard.load() == 2.0, "but not by everyone before it has answered"
        await first
        one = it.guard.load()
        assert one == pytest.approx(0.04)
    assert it.guard.load() == pytest.approx(one / 2, rel=0.1)


async def test_the_p95_is_known_after_20_calls() -> None:
    it = Guarded(FakeUpstream([piece("a")]))
    for _ in range(19):
        await read(it)
    assert it.guard.p95_s() is None
    it.upstream.scripts = [[0.03, piece("a")]]
    for _ in range(2):
        await read(it)
    assert it.guard.p95_s() == pytest.approx(0.03)


async def test_a_loser_counts_as_having_taken_longer_than_it_was_given() -> None:
    it = Guarded(FakeUpstream([piece("a")], [FOREVER]))
    await read(it)
    before = it.guard.load()
    loser = asyncio.create_task(read(it, LONG, Fate(Outcome.SUPERSEDED)))
    await asyncio.sleep(0.03)
    loser.cancel()
    await asyncio.wait([loser])
    assert before == 0
    assert it.guard.load() == pytest.approx(0.03)


async def test_a_good_check_lets_the_next_call_try_it() -> None:
    it = Guarded(FakeUpstream([BROKEN]))
    await open_breaker(it)
    await it.guard.check()
    assert it.count("up") == 1
    assert it.guard.available()
    it.upstream.scripts = [[piece("a")]]
    assert await read(it) == [piece("a")]
    assert it.count("breaker") == 0


async def test_a_bad_check_is_noted() -> None:
    it = Guarded(FakeUpstream([piece("a")], probes=[UNREACHABLE, None]))
    await it.guard.check()
    assert it.count("up") == 0
    assert it.guard.answers is False
    assert not it.guard.available()
    await it.guard.check()
    assert it.guard.available()


async def test_a_check_that_is_not_answered_ends_by_itself() -> None:
    it = Guarded(FakeUpstream([piece("a")], probes=[FOREVER]))
    await it.guard.check(limit_s=0.02)
    assert it.guard.answers is False


async def test_a_question_is_bounded_and_noted() -> None:
    it = Guarded(FakeUpstream([piece("a")]))

    async def answer(after_s: float, error: Exception | None = None) -> str:
        await asyncio.sleep(after_s)
        if error is not None:
            raise error
        return "yes"

    with pytest.raises(UpstreamTimeout, match=r"no answer within 0.01 s \(first_event_s\)"):
        await it.guard.ask(answer(FOREVER), 0.01)
    assert it.count("up") == 0
    assert await it.guard.ask(answer(0), 1) == "yes"
    assert it.count("up") == 1
    with pytest.raises(UpstreamFailed, match="cannot be reached"):
        await it.guard.ask(answer(0, UNREACHABLE), 1)
    assert it.count("up") == 0


async def test_a_fault_of_the_gateways_own_is_counted_as_such() -> None:
    it = Guarded(FakeUpstream([ZeroDivisionError()]))
    with pytest.raises(ZeroDivisionError):
        await read(it)
    assert it.count("requests_total", outcome="internal") == 1
    assert it.count("running") == 0
    assert it.guard.answers is None


class Fresh(FakeUpstream):
    """Fails with an error of its own each time; ``errors`` are those that are still held."""

    def __init__(self) -> None:
        super().__init__([])
        self.errors = weakref.WeakSet[Exception]()

    async def stream(self, call: object) -> AsyncGenerator[Event]:
        error = busy(0.001)
        self.errors.add(error)
        try:
            raise error
        finally:
            del error  # or its traceback would hold it here
        yield ALIVE


async def test_calls_that_failed_leave_nothing_for_the_garbage_collector() -> None:
    upstream = Fresh()
    it = Guarded(upstream, retries={"retries_max": 1})
    gc.disable()
    try:
        with pytest.raises(UpstreamFailed):
            await read(it)
        assert it.count("retries_total") == 1
        assert list(upstream.errors) == []
    finally:
        gc.enable()
