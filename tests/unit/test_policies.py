"""Content comes from one of several upstreams, and nothing is left of the others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    Code,
    GatewayError,
    Overloaded,
    RequestRejected,
    TransformFailed,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.guard import Deadlines, Fate
from gateway.model import (
    ActorError,
    ActorResponse,
    Event,
    Frames,
    LayerFinished,
    ObservationReady,
    RawEvent,
)
from gateway.pipeline_sections import Policy
from gateway.policies import Candidate, take
from tests.support.contests import NAMES, POLICIES, STARTED, Contest, failed, says
from tests.support.fakes import CALL, FOREVER, FakeUpstream, Script, leftovers, piece
from tests.support.own_time import OwnTimeLoop

#: Nobody waits, and nothing comes late.
pytestmark = pytest.mark.own_time

#: The first candidate's script and the second's, and whose content is taken under the policies in
#: which the first is the first to be tried, and in a race.
CASES: dict[str, tuple[list[Any], list[Any], str, str]] = {
    "the first is well": (says("a"), [0.2, *says("b")], "a", "a"),
    "the first fails before content": ([STARTED, failed("a")], [0.01, *says("b")], "b", "b"),
    "the first fails late": ([0.05, STARTED, failed("a")], [0.1, *says("b")], "b", "b"),
    "the first stalls without content": ([STARTED, FOREVER], [0.01, *says("b")], "-", "b"),
    "the first is slow": ([0.2, *says("a")], says("b"), "a", "b"),
    "the first fails after content": (
        [piece("a1"), 0.01, failed("a")],
        [0.05, *says("b")],
        "a!",
        "a!",
    ),
    "all fail": ([0.01, failed("a")], [STARTED, failed("b")], "!", "!"),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("case", CASES)
async def test_content_comes_from_one_and_the_others_are_closed(case: str, policy: Policy) -> None:
    first, second, expected, expected_in_race = CASES[case]
    if policy is Policy.RACE:
        expected = expected_in_race
    if policy is Policy.HEDGE:  # the second is started 20 ms after the first
        expected = {"the first stalls without content": "b", "the first is slow": "b"}.get(
            case, expected
        )
    # Nobody knows beforehand whom least_busy draws: so it knows that b is slow.
    it = Contest([first, second], policy, weights=(1.0, 0.0))
    if policy is Policy.LEAST_BUSY:
        now = it.guarded[0].clock()
        it.guarded[1].guard.latency.note(5.0, now)
    if expected == "-":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await it.run()
        assert it.got == []
        assert it.taken == []
    elif expected == "!":
        error = await it.error()
        assert it.got == []
        assert "upstream a: broke off" in error.message
        assert "upstream b: broke off" in error.message
    elif expected.endswith("!"):
        error = await it.error()
        assert error.message == "upstream a: broke off"
        assert it.got == [piece("a1")]
    else:
        assert await it.run() == says(expected)
    if expected not in ("-", "!"):
        assert it.taken == [expected[0]]
    await it.assert_nothing_is_left()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("when", ["before content", "after content", "between events"])
@pytest.mark.parametrize("times", [1, 3])
async def test_who_leaves_closes_all_that_was_begun(policy: Policy, when: str, times: int) -> None:
    script: Script = [STARTED, 0.05, FOREVER] if when == "before content" else [*says("x"), FOREVER]
    it = Contest([script] * 3, policy)
    if when == "between events":
        stream = it.stream()
        assert await anext(stream) == STARTED
        await stream.aclose()
        await stream.aclose()
    else:
        task = asyncio.create_task(it.run())
        await asyncio.sleep(0.03)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert it.got == ([] if when == "before content" else says("x"))
    await it.assert_nothing_is_left()
    gone = sum(it.ended(name, "client_gone") or 0 for name in NAMES)
    superseded = sum(it.ended(name, "superseded") or 0 for name in NAMES)
    assert gone + superseded == len(it.opened)
    if when == "before content":
        assert superseded == 0
    if policy is Policy.RACE:
        assert it.opened == NAMES


class SlowToClose(FakeUpstream):
    """Takes its time to end a call."""

    async def stream(self, call: Any) -> AsyncGenerator[Event]:
        try:
            async for event in super().stream(call):
                yield event
        finally:
            await asyncio.sleep(0.3)


async def test_a_loser_that_is_slow_to_close_does_not_delay_the_winner() -> None:
    it = Contest([[FOREVER], [0.01, *says("b")]], Policy.RACE)
    slow = SlowToClose([FOREVER], name="a")
    it.guarded[0].upstream = it.guarded[0].guard.upstream = slow
    clock = asyncio.get_running_loop().time
    began = clock()
    async with aclosing(it.stream()) as events:
        assert await anext(events) == STARTED
        assert clock() - began == pytest.approx(0.01)
        assert it.guarded[0].count("running") == 1, "it is still being closed"
        assert [event async for event in events] == says("b")[1:]
    assert clock() - began == pytest.approx(0.31), "but its end is waited for"
    assert it.ended("a", "superseded") == 1
    await it.assert_nothing_is_left()


async def test_a_fault_in_closing_a_loser_does_not_spoil_the_answer() -> None:
    class Faulty(FakeUpstream):
        async def stream(self, call: Any) -> AsyncGenerator[Event]:
            try:
                await asyncio.sleep(FOREVER)
                yield STARTED
            finally:
                raise ZeroDivisionError

    faults: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    it = Contest([[FOREVER], [0.01, *says("b")]], Policy.RACE)
    it.guarded[0].guard.upstream = Faulty([])
    assert await it.run() == says("b")
    assert [type(fault) for fault in faults] == [ZeroDivisionError]
    assert await leftovers() == []


async def test_a_failure_of_a_loser_while_it_is_closed_concerns_nobody() -> None:
    class Failing(FakeUpstream):
        async def stream(self, call: Any) -> AsyncGenerator[Event]:
            try:
                await asyncio.sleep(FOREVER)
                yield STARTED
            finally:
                raise failed("a")

    it = Contest([[FOREVER], [0.01, *says("b")]], Policy.RACE)
    it.guarded[0].guard.upstream = Failing([])
    assert await it.run() == says("b")
    assert await leftovers() == []


CONTENT: dict[str, tuple[Event, bool]] = {
    "text": (piece("x"), True),
    "a last piece with text": (piece("x", finished=True), True),
    "an observation": (ObservationReady(b"{}"), True),
    "an unknown event": (RawEvent(b"{}"), True),
    "frames": (Frames(b"data: {}\n\n", 1), True),
    "the last layer's end": (
        LayerFinished("0", (ActorResponse("x", "text"),), last=True),
        True,
    ),
    "an end with a message and an error": (
        LayerFinished("0", (ActorResponse("x", "text", (ActorError("m", "n"),)),), last=True),
        True,
    ),
    "an end of which one actor is well": (
        LayerFinished(
            "0",
            (ActorResponse("x", "", (ActorError("m", "n"),)), ActorResponse("y", "")),
            last=True,
        ),
        True,
    ),
    "an end without actors": (LayerFinished("0", (), last=True), True),
    "a layer's start": (STARTED, False),
    "an earlier layer's end": (LayerFinished("0", (ActorResponse("x", "text"),)), False),
    "an empty piece": (piece(""), False),
    "an empty last piece": (piece("", finished=True), False),
}


@pytest.mark.parametrize("case", CONTENT)
async def test_only_content_decides(case: str) -> None:
    event, decides = CONTENT[case]
    it = Contest([[event, failed("a")], says("b")], Policy.FALLBACK)
    if decides:
        assert (await it.error()).message == "upstream a: broke off"
        assert it.got == [event]
        assert it.opened == "a"
    else:
        assert await it.run() == says("b")
        assert it.opened == "ab"


async def test_what_came_before_content_is_sent_on_but_for_signs_of_life() -> None:
    early = [STARTED, Frames(b"", 0), Frames(b": hello\n\n", 0), piece("")]
    it = Contest([[*early, piece("x"), Frames(b"", 0)]], Policy.RACE)
    assert await it.run() == [STARTED, piece(""), piece("x"), Frames(b"", 0)]


async def test_what_is_held_back_has_a_bound() -> None:
    it = Contest([[*[piece("")] * 65, failed("a")], says("b")], Policy.FALLBACK)
    assert (await it.error()).message == "upstream a: broke off"
    assert len(it.got) == 65


async def test_one_that_ends_well_without_a_word_is_taken() -> None:
    it = Contest([[STARTED], says("b")], Policy.FALLBACK)
    assert await it.run() == [STARTED]
    assert it.taken == ["a"]


async def test_an_answer_of_nothing_but_errors_is_a_failure() -> None:
    end = LayerFinished(
        "0", (ActorResponse("ocr", "", (ActorError("Not a PDF.", "PdfError"),)),), last=True
    )
    it = Contest([[STARTED, end], says("b")], Policy.FALLBACK)
    assert await it.run() == says("b")
    assert it.ended("a", "upstream_error") == 1
    it = Contest([[STARTED, end]], Policy.FALLBACK)
    error = await it.error()
    assert error.message == "upstream a: actor ocr failed: Not a PDF. (PdfError)"
    assert isinstance(error, UpstreamFailed)
    assert error.alive
    await it.assert_nothing_is_left()


@pytest.mark.parametrize("policy", [Policy.FALLBACK, Policy.RACE])
@pytest.mark.parametrize(
    "error",
    [
        RequestRejected("nothing to run on"),
        TransformFailed("no", reason="result"),
        ZeroDivisionError(),
    ],
)
async def test_what_no_upstream_can_mend_is_raised_at_once(
    policy: Policy, error: Exception
) -> None:
    reported: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    it = Contest([[error], [0.05, *says("b")]], policy)
    with pytest.raises(type(error)) as info:
        await it.run()
    assert info.value is error
    assert reported == [], "it is told once"
    assert it.opened == ("a" if policy is Policy.FALLBACK else "ab")
    assert it.ended("b", "superseded") == (None if policy is Policy.FALLBACK else 1)
    await it.assert_nothing_is_left()


async def test_content_that_comes_with_a_fault_elsewhere_is_taken() -> None:
    it = Contest([says("a"), [RequestRejected("nothing to run on")]], Policy.RACE)
    assert await it.run() == says("a")
    assert it.opened == "ab"
    await it.assert_nothing_is_left()


async def test_a_rejected_request_is_not_sent_to_the_next() -> None:
    rejected = failed("a", code=Code.UPSTREAM_REJECTED)
    it = Contest([[rejected], says("b")], Policy.FALLBACK)
    assert await it.error() is rejected
    assert it.opened == "a"


async def test_a_rejected_request_in_a_race_counts_only_if_nobody_else_answers() -> None:
    rejected = failed("a", code=Code.UPSTREAM_REJECTED)
    assert await Contest([[rejected], [0.02, *says("b")]], Policy.RACE).run() == says("b")
    it = Contest([[rejected], [0.02, failed("b")]], Policy.RACE)
    assert await it.error() is rejected
    await it.assert_nothing_is_left()


@pytest.mark.parametrize(
    "last",
    [
        UpstreamFailed("upstream c: x", code=Code.UPSTREAM_BUSY, status=429, retry_after_s=7),
        UpstreamTimeout("upstream c: x", retry_after_s=7),
        Overloaded("upstream c: x", retry_after_s=7),
    ],
)
async def test_where_all_fail_each_is_told_of(last: GatewayError) -> None:
    it = Contest([[failed("a", retry_after_s=3)], [failed("b")], [last]], Policy.FALLBACK)
    error = await it.error()
    assert error.message == "upstream a: broke off; upstream b: broke off; upstream c: x"
    assert type(error) is type(last)
    assert (error.code, error.status, error.retry_after_s) == (last.code, last.status, 3)


async def test_a_single_failure_is_told_as_it_was() -> None:
    error = failed("a")
    assert await Contest([[error]], Policy.RACE).error() is error


STEP = st.sampled_from(
    [STARTED, piece(""), piece("x"), Frames(b"", 0), 0.0, 0.001, failed("x"), FOREVER]
)


@given(
    st.lists(st.lists(STEP, max_size=4), min_size=1, max_size=3),
    st.sampled_from(POLICIES),
    st.integers(0, 6),
    st.integers(1, 3),
)
def test_whatever_happens_content_comes_from_one_and_nothing_is_left(
    scripts: list[list[Any]], policy: Policy, patience: int, cancels: int
) -> None:
    async def go() -> None:
        named: list[Script] = [
            [piece(name) if step == piece("x") else step for step in script]
            for name, script in zip(NAMES, scripts, strict=False)
        ]
        it = Contest(named, policy, hedge_after_s=0.001)
        task = asyncio.create_task(it.run())
        for _ in range(patience):
            await asyncio.sleep(0.0005)
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task])
        if not task.cancelled():
            error = task.exception()
            assert error is None or isinstance(error, UpstreamFailed)
        said = {event.message for event in it.got if event in [piece(name) for name in NAMES]}
        assert said <= set(it.taken)
        assert len(it.taken) <= 1
        await it.assert_nothing_is_left()

    with asyncio.Runner(loop_factory=OwnTimeLoop) as runner:
        runner.run(go())


async def test_a_candidate_may_fail_while_it_prepares_its_call() -> None:
    it = Contest([says("b")], Policy.FALLBACK)

    async def opened(fate: Fate) -> AsyncGenerator[Event]:
        raise UpstreamTimeout("upstream a: was not prepared in time")
        yield STARTED

    events = take(
        [
            Candidate(it.guarded[0].guard, 1.0, opened),
            Candidate(
                it.guarded[0].guard,
                1.0,
                lambda fate: it.guarded[0].guard.stream(CALL, Deadlines(60, 60), fate),
            ),
        ],
        Policy.FALLBACK,
        hedge_after_s=None,
        sticky=None,
        taken=lambda index: it.taken.append(NAMES[index]),
        random=random.Random(1),
        clock=asyncio.get_running_loop().time,
    )
    async with aclosing(events):
        assert [event async for event in events] == says("b")
    assert it.taken == ["b"]
