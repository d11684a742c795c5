"""One configuration for all workers: when it is taken, and by whom it is not."""

from __future__ import annotations

import asyncio

import pytest

from gateway.agreement import READY_S, TAKEN_S, Agreement
from gateway.errors import ConfigError
from gateway.link import Drop, Given, Message, Prepared, Take, Taken

pytestmark = pytest.mark.own_time

OLD, NEW = b"old", b"new"


class Member:
    """A worker that remembers what it was sent, and answers when it is told to."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.sent: list[Message] = []
        self.killed = False
        self.said: list[str] = []

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def kill(self) -> None:
        self.killed = True

    def log(self, event: str, **fields: object) -> None:
        self.said.append(event)


async def agreement(members: int = 2) -> tuple[Agreement, list[Member]]:
    """One whose members have joined by what is live."""
    made = Agreement(OLD, "0")
    workers = [Member(place) for place in range(members)]
    for worker in workers:
        made.joined(worker, 1)
    return made, workers


async def begun(made: Agreement) -> asyncio.Task[None]:
    """Another configuration has been given to all."""
    reaching = asyncio.create_task(made.reach(NEW, "1"))
    await asyncio.sleep(0)
    return reaching


async def test_it_is_taken_once_the_last_has_it_ready() -> None:
    made, (one, two) = await agreement()
    reaching = await begun(made)
    assert one.sent == two.sent == [Given(2, NEW, "1")]
    made.heard(one, Prepared(2, []))
    await asyncio.sleep(0)
    assert made.live == Given(1, OLD, "0")
    made.heard(two, Prepared(2, []))
    await asyncio.sleep(0)
    assert one.sent[1:] == two.sent[1:] == [Take(2)]
    assert made.live == Given(2, NEW, "1")
    # It is done when all have taken it.
    made.heard(one, Taken(2))
    await asyncio.sleep(0)
    assert not reaching.done()
    made.heard(two, Taken(2))
    await reaching


async def test_where_one_finds_fault_nobody_takes_it() -> None:
    made, (one, two) = await agreement()
    reaching = await begun(made)
    made.heard(one, Prepared(2, []))
    made.heard(two, Prepared(2, ["it is wrong"]))
    with pytest.raises(ConfigError, match="it is wrong"):
        await reaching
    assert one.sent[1:] == two.sent[1:] == [Drop(2)]
    assert made.live == Given(1, OLD, "0")
    # And the next one is another.
    reaching = await begun(made)
    assert one.sent[2:] == [Given(3, NEW, "1")]
    for worker in (one, two):
        made.heard(worker, Prepared(2, []))  # late, and of no use any more
    await asyncio.sleep(0)
    assert one.sent[3:] == []
    reaching.cancel()
    await asyncio.gather(reaching, return_exceptions=True)
    assert one.sent[3:] == [Drop(3)]


async def test_one_that_ends_meanwhile_holds_nobody_up() -> None:
    made, (one, two) = await agreement()
    reaching = await begun(made)
    made.left(one)
    made.heard(two, Prepared(2, []))
    await asyncio.sleep(0)
    assert two.sent[1:] == [Take(2)]
    made.heard(two, Taken(2))
    await reaching


@pytest.mark.parametrize("ready_first", [True, False])
async def test_what_two_workers_end_over_is_not_taken(ready_first: bool) -> None:
    made, (one, two, three) = await agreement(3)
    reaching = await begun(made)
    if ready_first:
        made.heard(three, Prepared(2, []))
    made.left(one)
    made.left(two)
    with pytest.raises(ConfigError, match="ended while they loaded it"):
        await reaching
    assert three.sent[1:] == [Drop(2)]


async def test_the_only_worker_that_ends_over_it_has_not_taken_it() -> None:
    made, (one,) = await agreement(1)
    reaching = await begun(made)
    made.left(one)
    with pytest.raises(ConfigError, match="ended while they loaded it"):
        await reaching
    assert made.live == Given(1, OLD, "0")


async def test_one_that_joins_meanwhile_is_given_it_and_waited_for() -> None:
    made, (one,) = await agreement(1)
    reaching = await begun(made)
    late = Member(1)
    made.joined(late, 1)
    made.heard(one, Prepared(2, []))
    await asyncio.sleep(0)
    assert one.sent[1:] == []
    made.heard(late, Prepared(2, []))
    await asyncio.sleep(0)
    assert late.sent == [Given(2, NEW, "1"), Take(2)]
    for worker in (one, late):
        made.heard(worker, Taken(2))
    await reaching


async def test_one_that_started_with_what_was_live_before_is_brought_up_to_it() -> None:
    made, (one,) = await agreement(1)
    reaching = await begun(made)
    made.heard(one, Prepared(2, []))
    made.heard(one, Taken(2))
    await reaching
    late = Member(1)
    made.joined(late, 1)
    assert late.sent == [Given(2, NEW, "1"), Take(2)]
    made.heard(late, Prepared(2, []))
    assert not late.killed
    # One that cannot is ended: another starts with what is live.
    made.heard(late, Prepared(2, ["it is wrong here"]))
    assert late.killed
    assert late.said == ["a worker that cannot load what is live is ended"]


async def test_one_that_started_with_the_new_one_already_has_nothing_to_take() -> None:
    made, (one,) = await agreement(1)
    reaching = await begun(made)
    made.heard(one, Prepared(2, []))
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    made.joined(late := Member(1), 2)
    made.heard(one, Taken(2))
    await reaching
    assert asyncio.get_running_loop().time() == began
    assert late.sent == []


async def test_where_nobody_serves_it_is_what_they_start_with() -> None:
    made, _ = await agreement(0)
    await made.reach(NEW, "1")
    assert made.live == Given(2, NEW, "1")


async def test_one_that_says_nothing_is_waited_for_so_long_and_then_nobody_takes_it() -> None:
    made, (one, two) = await agreement()
    began = asyncio.get_running_loop().time()
    reaching = await begun(made)
    made.heard(one, Prepared(2, []))
    with pytest.raises(ConfigError, match="not every worker loaded it within 60 s"):
        await reaching
    assert asyncio.get_running_loop().time() - began == READY_S
    assert one.sent[1:] == two.sent[1:] == [Drop(2)]


async def test_one_that_is_slow_to_take_it_holds_nobody_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, workers = await agreement()
    began = asyncio.get_running_loop().time()
    reaching = await begun(made)
    for worker in workers:
        made.heard(worker, Prepared(2, []))
    made.heard(workers[0], Taken(2))
    await reaching
    assert asyncio.get_running_loop().time() - began == TAKEN_S
    (record,) = caplog.records
    assert vars(record)["fields"]["workers"] == [2]
