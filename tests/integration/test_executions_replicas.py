"""Replicas that share a store: what one has accepted any other shows, ends and finishes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.executions_api import Api, Event, Refused, whole
from tests.support.replicas import (
    KINDS,
    Behind,
    Call,
    Replicas,
    behind,
    replicas,
    shared,
    spoken,
)
from tests.support.serving import serving
from tests.support.timing import Stopwatch, every_time, patience, promised, until

#: The least that a lease can be, seconds.
LEASE_S = 1.0


@dataclass(frozen=True, slots=True)
class Scene:
    """Replicas to be started, and what is around them."""

    api: Api
    started: Replicas
    behind: Behind

    async def called(self, name: str, times: int = 1, said: int = 0) -> Call:
        """The upstream's call for ``name``, the so-manieth, once it is there and has said so
        much."""
        calls = self.behind.calls[name]
        await until(lambda: len(calls) >= times and calls[times - 1].said >= said)
        return calls[times - 1]


@asynccontextmanager
async def scene(kind: str, folder: Path, **options: Any) -> AsyncIterator[Scene]:
    folder.mkdir()
    async with (
        shared(kind, folder) as store,
        behind() as far,
        replicas(folder, store, far, **options) as started,
        aiohttp.ClientSession() as session,
    ):
        yield Scene(Api(session), started, far)


@pytest.fixture
def apart(tmp_path: Path) -> Callable[[], Path]:
    """A folder of its own for each try of a test."""
    numbers = iter(range(10))
    return lambda: tmp_path / str(next(numbers))


def attempts(events: list[Event]) -> list[int]:
    """The attempts that a log tells of."""
    return [event.said.get("attempt", 1) for event in events if event.status == "RUNNING"]


async def assert_done_once(api: Api, base: str, name: str, pieces: int) -> list[Event]:
    """It has one end, which is good, and one result; returns its log."""
    events = await api.log(base, name)
    assert [event.status for event in events if event.ended] == ["COMPLETED"]
    assert events[-1].ended
    assert whole(events)
    assert (await api.get(base, name))["status"] == "COMPLETED"
    assert await api.results(base, name) == [spoken(name, pieces)]
    return events


@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_whose_replica_is_killed_is_finished_by_another_and_its_watcher_goes_on_there(
    kind: str, apart: Callable[[], Path]
) -> None:
    async with scene(kind, apart(), lease_s=LEASE_S) as s, patience():
        first = await s.started.start()
        hook = await s.api.hook(first.base, s.behind.endpoint, "COMPLETED")
        s.behind.hold("long")
        await s.api.begin(first.base, "long", hook, pieces=5, pause_s=0)
        bases = iter([first.base])
        seen: list[Event] = []
        second = await s.started.start()
        watching = asyncio.create_task(s.api.follow(lambda: next(bases, second.base), "long", seen))
        await until(lambda: len(seen) == 4)  # RUNNING, a layer, two pieces
        await first.kill()
        s.behind.let_go("long")
        await watching
        assert seen == await assert_done_once(s.api, second.base, "long", 5)
        assert attempts(seen) == [1, 2]
        assert len(s.behind.calls["long"]) == 2
        await until(lambda: s.behind.told)
        assert {each.execution for each in s.behind.told} == {"long"}
        assert len({each.message_id for each in s.behind.told}) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attached", [True, False])
async def test_a_direct_stream_whose_client_has_gone_goes_on_where_another_replica_attaches_to_it(
    kind: str, attached: bool, apart: Callable[[], Path]
) -> None:
    async with scene(kind, apart(), resume_s=1.0) as s, patience():
        first, second = await s.started.start(), await s.started.start()
        s.behind.hold("cut")
        query = f"{first.base}/pipelines/talk/queries?sse=true"
        async with (
            aiohttp.ClientSession() as client,
            client.post(query, json={"request": "cut 5 0"}) as response,
        ):
            name = response.headers["X-Execution-Id"]
            await until(lambda: s.behind.calls["cut"][0].said == 2)
        call = s.behind.calls["cut"][0]
        if not attached:
            await until(lambda: not call.open)
            assert (await s.api.log(second.base, name))[-1].status == "CANCELLED"
            return
        seen: list[Event] = []
        watching = asyncio.create_task(s.api.follow(lambda: second.base, name, seen))
        await asyncio.sleep(4.0)  # the time that it had without that, and more
        assert call.open
        s.behind.let_go("cut")
        await watching
        assert whole(seen)
        assert seen[-1].status == "COMPLETED"


@pytest.mark.parametrize("kind", KINDS)
@every_time
async def test_a_dead_replicas_run_begins_again_within_twice_the_lease(
    kind: str, apart: Callable[[], Path]
) -> None:
    async with scene(kind, apart(), lease_s=LEASE_S) as s, patience():
        first = await s.started.start()
        s.behind.hold("long")
        await s.api.begin(first.base, "long", pieces=5, pause_s=0)
        await s.called("long")
        await s.started.start()
        await asyncio.sleep(LEASE_S)  # the second one comes to know the first
        await first.kill()
        watch = Stopwatch()
        await s.called("long", times=2)
        assert watch.passed_s() < 2 * LEASE_S


@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_that_takes_longer_than_three_leases_is_never_run_twice(
    kind: str, apart: Callable[[], Path]
) -> None:
    async with scene(kind, apart(), lease_s=LEASE_S) as s, patience():
        first, second = await s.started.start(), await s.started.start()
        await s.api.begin(first.base, "slow", pieces=3, pause_s=1.2 * LEASE_S)
        events = await assert_done_once(s.api, second.base, "slow", 3)
        assert attempts(events) == [1]
        assert len(s.behind.calls["slow"]) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("thawed", ["while the other runs it", "when the other has finished it"])
async def test_what_a_frozen_replica_still_writes_of_a_run_that_was_taken_over_does_not_count(
    kind: str, thawed: str, apart: Callable[[], Path]
) -> None:
    async with scene(kind, apart(), lease_s=LEASE_S) as s, patience():
        first = await s.started.start()
        hook = await s.api.hook(first.base, s.behind.endpoint, "COMPLETED")
        s.behind.hold("long")
        await s.api.begin(first.base, "long", hook, pieces=12, pause_s=0.1)
        await s.called("long", said=2)
        second = await s.started.start()
        first.tell(signal.SIGSTOP)
        try:
            other = await s.called("long", times=2)
            s.behind.let_go("long")  # the frozen one finds its whole answer when it wakes
            await s.called("long", times=1, said=12)
            if thawed == "when the other has finished it":
                await until(lambda: other.finished)
                await assert_done_once(s.api, second.base, "long", 12)
        finally:
            first.tell(signal.SIGCONT)
        events = await assert_done_once(s.api, second.base, "long", 12)
        assert attempts(events) == [1, 2]
        await asyncio.sleep(LEASE_S)  # whatever it still does, it does now
        assert await assert_done_once(s.api, first.base, "long", 12) == events
        await until(lambda: s.behind.told)
        assert len({each.message_id for each in s.behind.told}) == 1
        assert len(s.behind.calls["long"]) == 2
        # It goes on as one of the two.
        await second.kill()
        await s.api.begin(first.base, "next", pieces=1, pause_s=0)
        await assert_done_once(s.api, first.base, "next", 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["cancel", "delete"])
@every_time
async def test_who_cancels_or_removes_an_execution_at_another_replica_ends_its_call_within_2_s(
    kind: str, how: str, apart: Callable[[], Path]
) -> None:
    async with scene(kind, apart(), lease_s=10) as s, patience():
        first = await s.started.start()
        await s.api.begin(first.base, "long", pieces=1000, pause_s=0.1)
        call = await s.called("long", said=1)
        second = await s.started.start()
        seen: list[Event] = []
        watching = asyncio.create_task(s.api.follow(lambda: second.base, "long", seen))
        await until(lambda: seen)
        async with promised(2.0):
            await (s.api.cancel if how == "cancel" else s.api.delete)(second.base, "long")
            await call.seen.gone.wait()
        if how == "cancel":
            await watching
            assert seen[-1].status == "CANCELLED"
            assert (await s.api.get(second.base, "long"))["status"] == "CANCELLED"
            assert await s.api.results(second.base, "long") == []
        else:
            with pytest.raises(Refused, match="404"):
                await watching
            with pytest.raises(Refused, match="404"):
                await s.api.get(first.base, "long")
        assert len(s.behind.calls["long"]) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_replica_has_when_it_is_told_to_stop_goes_on_at_once_elsewhere(
    kind: str, apart: Callable[[], Path]
) -> None:
    lease_s = 60.0
    async with scene(kind, apart(), lease_s=lease_s, drain_s=0.2, concurrency=1) as s, patience():
        first = await s.started.start()
        names = ["running", "queued", "last"]
        for name in names:
            s.behind.hold(name)
            await s.api.begin(first.base, name, pieces=6, pause_s=0)
        await s.called("running", said=2)
        second = await s.started.start()
        await s.called("queued", said=2)
        bases = iter([first.base])
        seen: list[Event] = []
        watching = asyncio.create_task(
            s.api.follow(lambda: next(bases, second.base), "running", seen)
        )
        await until(lambda: len(seen) == 4)
        async with promised(lease_s / 4):  # nobody waits for the lease of one that said goodbye
            await first.stop()
            for name in names:
                s.behind.let_go(name)
            for name in names:
                events = await assert_done_once(s.api, second.base, name, 6)
                assert set(attempts(events)) == {1}
            await watching
        assert seen == await s.api.log(second.base, "running")
        assert [len(s.behind.calls[name]) for name in names] == [2, 1, 1]
        assert s.behind.twice == []


async def test_what_a_killed_worker_had_is_finished_by_the_others(tmp_path: Path) -> None:
    async with behind() as far, aiohttp.ClientSession() as session, patience():
        config = tmp_path / "gateway.yaml"
        config.write_text(f"""
server: {{port: 0, workers: 2, watch: false, pre_stop_s: 0}}
transforms: {{client: {{processes: 1}}}}
upstreams: {{talk: {{kind: pupau, url: "{far.url}", retries: {{retries_max: 0}}}}}}
pipelines: {{talk: {{upstream: talk}}}}
executions: {{store: "sqlite:kept.db", lease_s: {LEASE_S}, attempts_max: 100, concurrency: 3}}
""")
        async with serving(config) as gateway:
            api = Api(session)
            names = [f"x-{number}" for number in range(6)]  # each worker runs three of them
            for name in names:
                await api.begin(gateway.base, name, pieces=40, pause_s=0.1)
            await until(lambda: all(far.calls[name] for name in names))
            os.kill(min(gateway.children()), signal.SIGKILL)
            for name in names:
                await assert_done_once(api, gateway.base, name, 40)
            assert sorted(len(far.calls[name]) for name in names) == [1, 1, 1, 2, 2, 2]
            assert far.twice == []
