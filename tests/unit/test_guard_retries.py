"""Which calls are made again, and when."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from gateway.errors import (
    Code,
    GatewayError,
    RequestRejected,
    TransformFailed,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.guard import Deadlines, Fate
from gateway.model import LayerStarted
from tests.support.fakes import CALL, FOREVER, FakeUpstream, Guarded, leftovers, piece
from tests.support.guards import (
    ALIVE,
    BROKEN,
    LONG,
    QUICK,
    UNREACHABLE,
    busy,
    read,
    refused,
)

#: Nobody waits, and nothing comes late.
pytestmark = pytest.mark.own_time

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
    assert 0.05 <= round(it.clock() - began, 6) < 0.1


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
    assert it.clock() - began == pytest.approx(0.25)


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
