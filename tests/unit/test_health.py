"""What readiness relies on, and when it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.errors import UpstreamFailed, UpstreamTimeout
from gateway.health import LATELY_S, PROBE_S, Health, Readiness, keep_asking
from tests.support.fakes import FOREVER, Clock, FakeUpstream, leftovers

#: Nobody waits, and nothing comes late.
pytestmark = pytest.mark.own_time

DOWN = UpstreamFailed("upstream up: down")


class Asked(FakeUpstream):
    """An upstream that counts the questions whether it is there."""

    def __init__(self, *probes: float | Exception | None, name: str = "up") -> None:
        super().__init__((), name=name, probes=probes)
        self.asked = 0

    async def probe(self) -> None:
        self.asked += 1
        await super().probe()


async def test_nothing_is_known_before_the_first_answer() -> None:
    health = Health(Asked(None), clock=Clock())
    assert health.status is None
    health.saw(None)
    assert health.status is True
    health.saw(UpstreamTimeout("late"))
    assert health.status is False
    health.saw(UpstreamFailed("no such pipeline", alive=True))
    assert health.status is True


async def test_a_good_answer_is_relied_on_for_a_while() -> None:
    clock, upstream = Clock(), Asked(None)
    health = Health(upstream, clock=clock)
    health.saw(None)
    clock.forward(LATELY_S - 0.1)
    assert await health.failure() is None
    assert upstream.asked == 0
    clock.forward(0.2)
    assert await health.failure() is None
    assert upstream.asked == 1


async def test_a_bad_answer_is_doubted_at_once() -> None:
    upstream = Asked(DOWN, None)
    health = Health(upstream, clock=Clock())
    health.saw(DOWN)
    assert await health.failure() == "upstream up: down"
    assert await health.failure() is None
    assert upstream.asked == 2


async def test_an_upstream_that_is_asked_regularly_is_not_asked_beside_that() -> None:
    clock, upstream = Clock(), Asked(None)
    health = Health(upstream, clock=clock, check_every_s=5.0)
    health.saw(DOWN)
    assert await health.failure() == "upstream up: down"
    health.saw(None)
    clock.forward(5.0)
    assert await health.failure() is None
    assert upstream.asked == 0
    clock.forward(PROBE_S + 0.1)  # the regular question has been missed
    assert await health.failure() is None
    assert upstream.asked == 1


async def test_many_who_want_to_know_ask_once_and_one_who_leaves_takes_nothing_away() -> None:
    upstream = Asked(0.05)
    readiness = Readiness([Health(upstream, clock=Clock())])
    impatient = asyncio.create_task(readiness.failures())
    others = [asyncio.create_task(readiness.failures()) for _ in range(10)]
    await asyncio.sleep(0.01)
    impatient.cancel()
    assert await asyncio.gather(*others) == [{}] * 10
    assert upstream.asked == 1
    assert await leftovers() == []


async def test_readiness_names_each_that_fails() -> None:
    healths = [
        Health(Asked(DOWN, name="b"), clock=Clock()),
        Health(Asked(None, name="c"), clock=Clock()),
        Health(Asked(UpstreamTimeout("late"), name="a"), clock=Clock()),
    ]
    failures = await Readiness(healths).failures()
    assert list(failures.items()) == [("a", "late"), ("b", "upstream up: down")]


async def test_closing_ends_a_question() -> None:
    health = Health(Asked(FOREVER), clock=Clock())
    asking = asyncio.create_task(health.failure())
    await asyncio.sleep(0.01)
    await health.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await leftovers() == []


@pytest.mark.parametrize("outcomes", [[None, None, None], [ValueError("a bug"), None, None]])
async def test_checks_go_on_whatever_one_of_them_does(
    outcomes: Sequence[Exception | None],
) -> None:
    left, done = list(outcomes), asyncio.Event()

    async def check() -> None:
        outcome = left.pop(0)
        if not left:
            done.set()
        if outcome is not None:
            raise outcome

    asking = asyncio.create_task(keep_asking(check, 0.01))
    async with asyncio.timeout(5):
        await done.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
