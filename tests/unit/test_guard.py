"""What keeps one upstream's calls steady."""

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
    GatewayError,
    Outcome,
    Overloaded,
    RequestRejected,
    TransformFailed,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.guard import Deadlines, Fate
from gateway.model import Event, Frames, LayerStarted
from tests.support.fakes import CALL, FOREVER, Clock, FakeUpstream, Guarded, leftovers, piece

LONG = Deadlines(first_event_s=60, idle_s=60)
ALIVE = Frames(b"", 0)
UNREACHABLE = UpstreamFailed("upstream up: cannot be reached", code=Code.UPSTREAM_UNREACHABLE)
BROKEN = UpstreamFailed("upstream up: broke off in mid-answer")
QUICK = {"backoff_s": 0.001, "backoff_s_max": 0.01}


def busy(retry_after_s: float | None = None, status: int = 503) -> UpstreamFailed:
    return UpstreamFailed(
        "upstream up: answered 503",
        code=Code.UPSTREAM_BUSY,
        status=status,
        retry_after_s=retry_after_s,
    )


async def read(it: Guarded, deadlines: Deadlines = LONG, fate: Fate | None = None) -> list[Event]:
    async with aclosing(it.guard.stream(CALL, deadlines, fate or Fate())) as events:
        return [event async for event in events]


async def refused(
    it: Guarded, deadlines: Deadlines = LONG, error: type[GatewayError] = UpstreamFailed
) -> Any:
    with pytest.raises(error) as info:
        await read(it, deadlines)
    return info.value


async def open_breaker(it: Guarded) -> None:
    for _ in range(5):
        await refused(it)


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


RETRIED: dict[str, tuple[Exception, str, dict[str, Any], bool]] = {
    "unreachable": (UNREACHABLE, "pupau", {}, True),
    "busy": (busy(), "pupau", {}, True),
    "too many": (busy(status=429), "pupau", {}, True),
    "broken": (BROKEN, "pupau", {}, False),
    "broken, allowed": (BROKEN, "pupau", {"repeat_broken": True}, True),
    "broken Triton": (BROKEN, "triton", {}, True),
    "broken Triton, forbidden": (BROKEN, "triton", {"repeat_broken": False}, False),
    "alive": (UpstreamFailed("no such model", alive=True), "triton", {}, False),
    "timeout": (UpstreamTimeout("too slow"), "triton", {}, False),
    "rejected": (UpstreamFailed("bad", code=Code.UPSTREAM_REJECTED), "triton", {}, False),
    "own request": (RequestRejected("nothing to run on"), "triton", {}, False),
    "own transform": (TransformFailed("no", reason="result"), "triton", {}, False),
    "no retries": (UNREACHABLE, "pupau", {"retries_max": 0}, False),
    "no budget": (UNREACHABLE, "pupau", {"budget": 0}, False),
    "Retry-After too long": (busy(5.0), "pupau", {}, False),
    "Retry-After short": (busy(0.01), "pupau", {}, True),
}


@pytest.mark.parametrize("case", RETRIED)
async def test_only_what_is_safe_is_made_again(case: str) -> None:
    error, kind, retries, again = RETRIED[case]
    upstream = FakeUpstream([error], [piece("a")], kind=kind)
    it = Guarded(upstream, retries=QUICK | retries)
    if again:
        assert await read(it) == [piece("a")]
        assert it.count("requests_total", outcome="complete") == 1
    else:
        assert await refused(it, error=GatewayError) is error
    assert upstream.opened == 1 + again
    assert it.count("retries_total") == again
    assert upstream.open == 0


async def test_nothing_is_made_again_after_an_event() -> None:
    it = Guarded(FakeUpstream([LayerStarted("0", "…"), BROKEN], kind="triton"), retries=QUICK)
    await refused(it)
    assert it.upstream.opened == 1


async def test_a_sign_of_life_does_not_forbid_a_retry() -> None:
    it = Guarded(FakeUpstream([ALIVE, BROKEN], [piece("a")], kind="triton"), retries=QUICK)
    assert await read(it) == [ALIVE, piece("a")]


async def test_each_attempt_counts_and_the_last_error_is_told() -> None:
    it = Guarded(FakeUpstream([UNREACHABLE]), retries=QUICK)
    assert await refused(it) is UNREACHABLE
    assert it.count("requests_total", outcome="upstream_error") == 3
    assert it.count("retries_total") == 2


async def test_retry_after_is_waited_for() -> None:
    it = Guarded(FakeUpstream([busy(0.05)], [piece("a")]))
    began = it.clock()
    await read(it)
    assert it.clock() - began >= 0.05


@pytest.mark.parametrize("limit", ["first_event_s", "total_s"])
async def test_a_retry_that_would_come_too_late_is_not_waited_for(limit: str) -> None:
    it = Guarded(FakeUpstream([busy(1.0)]))
    deadlines = Deadlines(0.5 if limit == "first_event_s" else 9, 9)
    if limit == "total_s":
        deadlines = Deadlines(9, 9, it.clock() + 0.5, 0.5)
    error = await refused(it, deadlines)
    assert error.retry_after_s == 1.0
    assert it.upstream.opened == 1


async def test_all_attempts_share_the_time_to_the_first_event() -> None:
    it = Guarded(FakeUpstream([0.2, UNREACHABLE], [FOREVER]), retries=QUICK)
    began = it.clock()
    await refused(it, Deadlines(0.25, 9), UpstreamTimeout)
    assert it.clock() - began < 0.4


async def test_the_slot_is_free_while_a_retry_waits() -> None:
    it = Guarded(FakeUpstream([busy(0.05)], [piece("a")]), concurrency={"running_max": 1})
    waiting = asyncio.create_task(read(it))
    await asyncio.sleep(0.01)
    assert it.count("running") == 0
    assert await read(it) == [piece("a")]
    assert await waiting == [piece("a")]


@pytest.mark.parametrize("why", ["breaker", "queue"])
async def test_a_retry_that_is_not_let_through_ends_with_the_error_it_had(why: str) -> None:
    it = Guarded(
        FakeUpstream([busy(0.2)], [piece("a"), FOREVER]),
        concurrency={"running_max": 1, "waiting_max": 0},
        breaker={"failures": 2 if why == "breaker" else 9},
    )
    call = asyncio.create_task(refused(it))
    await asyncio.sleep(0.01)
    if why == "breaker":
        it.upstream.scripts = [[BROKEN]]
        await refused(it)
        error = await call
    else:
        async with aclosing(it.guard.stream(CALL, LONG, Fate())) as events:
            await anext(events)
            error = await call
    assert error.code is Code.UPSTREAM_BUSY
    assert it.count("refused_total", reason=why) == 1


async def test_a_call_cancelled_while_its_retry_waits_leaves_nothing() -> None:
    it = Guarded(FakeUpstream([busy(1.0)]))
    task = asyncio.create_task(read(it))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert it.count("running") == 0
    assert await leftovers() == []


async def test_an_open_breaker_answers_at_once_and_says_when_to_come_back() -> None:
    clock = Clock()
    it = Guarded(FakeUpstream([BROKEN]), clock)
    await open_breaker(it)
    assert it.count("breaker") == 2
    assert not it.guard.available()
    clock.forward(1)
    began = it.clock()
    error = await refused(it)
    assert it.clock() - began < 0.01
    assert error.code is Code.UPSTREAM_UNAVAILABLE
    assert error.status == 503
    assert error.retry_after_s == pytest.approx(2.0, abs=0.1)
    assert it.upstream.opened == 5
    assert it.count("refused_total", reason="breaker") == 1
    assert it.count("requests_total", outcome="upstream_error") == 5


async def test_a_probe_that_is_answered_closes_the_breaker_before_it_ends() -> None:
    clock = Clock()
    it = Guarded(FakeUpstream([BROKEN]), clock)
    await open_breaker(it)
    clock.forward(3)
    it.upstream.scripts = [[0.01, piece("a"), FOREVER]]
    async with aclosing(it.guard.stream(CALL, LONG, Fate())) as probe:
        assert it.guard.available()
        first = asyncio.create_task(anext(probe))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert it.count("breaker") == 1
        assert (await refused(it)).code is Code.UPSTREAM_UNAVAILABLE
        await first
        it.upstream.scripts = [[piece("b")]]
        assert await read(it) == [piece("b")]
        assert it.count("breaker") == 0


@pytest.mark.parametrize("end", ["cancelled", "own error"])
async def test_a_probe_that_says_nothing_lets_the_next_one_go_at_once(end: str) -> None:
    clock = Clock()
    it = Guarded(FakeUpstream([BROKEN]), clock)
    await open_breaker(it)
    clock.forward(3)
    if end == "cancelled":
        it.upstream.scripts = [[FOREVER]]
        probe = asyncio.create_task(read(it))
        await asyncio.sleep(0.01)
        probe.cancel()
        await asyncio.wait([probe])
    else:
        it.upstream.scripts = [[RequestRejected("nothing to run on")]]
        await refused(it, error=RequestRejected)
    assert it.count("breaker") == 2
    it.upstream.scripts = [[piece("a")]]
    assert await read(it) == [piece("a")]
    assert it.count("breaker") == 0


FAULTS: dict[str, tuple[Exception, int]] = {
    "timeout": (UpstreamTimeout("slow"), 2),
    "broken": (BROKEN, 2),
    "busy": (busy(9.0), 2),
    "too many": (busy(9.0, status=429), 0),
    "rejected": (UpstreamFailed("bad", code=Code.UPSTREAM_REJECTED), 0),
    "no such pipeline": (UpstreamFailed("no", alive=True), 0),
    "own": (TransformFailed("no", reason="result"), 0),
    "overloaded": (Overloaded("full"), 0),
}


@pytest.mark.parametrize("case", FAULTS)
async def test_the_breaker_counts_only_what_says_that_the_upstream_fails(case: str) -> None:
    error, state = FAULTS[case]
    it = Guarded(FakeUpstream([error]))
    for _ in range(5):
        await refused(it, error=GatewayError)
    assert it.count("breaker") == state


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
    assert (it.clock() - began) / 100 < 0.05
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
        assert 0.035 < one < 2
    assert it.guard.load() == pytest.approx(one / 2, rel=0.1)


async def test_the_p95_is_known_after_20_calls() -> None:
    it = Guarded(FakeUpstream([piece("a")]))
    for _ in range(19):
        await read(it)
    assert it.guard.p95_s() is None
    it.upstream.scripts = [[0.03, piece("a")]]
    for _ in range(2):
        await read(it)
    p95_s = it.guard.p95_s()
    assert p95_s is not None
    assert p95_s >= 0.03


async def test_a_loser_counts_as_having_taken_longer_than_it_was_given() -> None:
    it = Guarded(FakeUpstream([piece("a")], [FOREVER]))
    await read(it)
    before = it.guard.load()
    loser = asyncio.create_task(read(it, LONG, Fate(Outcome.SUPERSEDED)))
    await asyncio.sleep(0.03)
    loser.cancel()
    await asyncio.wait([loser])
    assert it.guard.load() > max(before, 0.025)


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


async def test_a_call_counts_once_in_the_share_of_failures() -> None:
    it = Guarded(
        FakeUpstream([piece("a")], [piece("a")], [BROKEN]),
        breaker={"failures": 0, "failure_rate": 0.5, "calls_min": 4},
    )
    for _ in range(2):
        await read(it)
    for _ in range(2):
        assert it.count("breaker") == 0
        await refused(it)
    assert it.count("breaker") == 2


async def test_a_probe_that_fails_leaves_the_upstream_alone_for_another_while() -> None:
    clock = Clock()
    it = Guarded(FakeUpstream([BROKEN]), clock)
    await open_breaker(it)
    clock.forward(3)
    assert (await refused(it)).code is Code.UPSTREAM_FAILED
    assert it.count("breaker") == 2
    assert (await refused(it)).code is Code.UPSTREAM_UNAVAILABLE
