"""An upstream that keeps failing is left alone, and tried again."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from gateway.errors import (
    Code,
    GatewayError,
    Overloaded,
    RequestRejected,
    TransformFailed,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.guard import Fate
from tests.support.fakes import CALL, FOREVER, Clock, FakeUpstream, Guarded, piece
from tests.support.guards import (
    BROKEN,
    LONG,
    busy,
    open_breaker,
    read,
    refused,
)

#: Nobody waits, and nothing comes late.
pytestmark = pytest.mark.own_time


async def test_an_open_breaker_answers_at_once_and_says_when_to_come_back() -> None:
    clock = Clock()
    it = Guarded(FakeUpstream([BROKEN]), clock)
    await open_breaker(it)
    assert it.count("breaker") == 2
    assert not it.guard.available()
    clock.forward(1)
    began = it.clock()
    error = await refused(it)
    assert it.clock() == began, "nothing is waited for"
    assert error.code is Code.UPSTREAM_UNAVAILABLE
    assert error.status == 503
    assert error.retry_after_s == pytest.approx(2.0)
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
