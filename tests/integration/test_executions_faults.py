"""A gateway that keeps executions while its store is away, locked, frozen or full, and while the
clock on its wall jumps: nothing that was acknowledged is lost, and whoever asks for something that
needs no store is not held up."""

from __future__ import annotations

import asyncio
import base64
import resource
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from gateway.executions import orders
from gateway.executions.records import Beat, Claim, Delivery, Ending, Key, Status
from gateway.executions.runner import Runner, Telling
from gateway.executions.sqlite import SqliteStore
from gateway.model import Request
from gateway.section import DAY_S
from gateway.sections import ExecutionsConfig
from gateway.serving import new_metrics
from gateway.site import Site
from tests.support import kept
from tests.support.executions_api import Api, Refused, whole
from tests.support.redis_server import redis_server
from tests.support.replicas import (
    KINDS,
    Behind,
    Replica,
    behind,
    configuration,
    replicas,
    shared,
    spoken,
)
from tests.support.running import gateway
from tests.support.sandboxes import GAP_S_MAX, Watch
from tests.support.store_process import process
from tests.support.stores import status, submitted
from tests.support.timing import every_time, patience, promised, until

#: The least that a lease can be, seconds.
LEASE_S = 1.0
HOUR_S = 3600.0


@asynccontextmanager
async def client() -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session, patience():
        yield Api(session)


async def assert_done_once(api: Api, base: str, far: Behind, names: Sequence[str]) -> None:
    """Each has run once, and has one end, which is good, and one result."""
    for name in names:
        events = await api.log(base, name)
        assert whole(events)
        assert [event.status for event in events if event.status] == ["RUNNING", "COMPLETED"]
        assert (await api.get(base, name))["status"] == "COMPLETED"
        assert len(await api.results(base, name)) == 1
        assert len(far.calls[name]) == 1
    await until(lambda: {told.execution for told in far.told} >= set(names))
    assert len({told.message_id for told in far.told}) == len({x.execution for x in far.told})


async def refusal(api: Api, base: str, name: str) -> Refused:
    """How a run is refused."""
    with pytest.raises(Refused) as caught:
        await api.submit(base, name, 1, 0)
    return caught.value


# Away


async def test_while_redis_is_away_nothing_is_lost_and_within_5_s_of_its_return_all_goes_on(
    tmp_path: Path,
) -> None:
    async with (
        redis_server(tmp_path) as server,
        behind() as far,
        gateway(configuration(server.url, far, concurrency=1)) as base,
        client() as api,
    ):
        hook = await api.hook(base, far.endpoint, "COMPLETED")
        far.hold("running")
        await api.begin(base, "running", hook, pieces=5, pause_s=0)
        await api.begin(base, "queued", hook, pieces=5, pause_s=0)
        await api.create(base, "refused", hook)
        await until(lambda: far.calls["running"])
        await server.kill()
        refused = await refusal(api, base, "refused")
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert await api.query(base, "direct", 5, 0.02) == spoken("direct", 5)
        far.let_go("running")
        await until(lambda: far.calls["running"][0].finished)  # its end cannot be written yet
        await server.start()
        async with promised(5.0):
            await api.begin(base, "later", hook, pieces=5, pause_s=0)
        await assert_done_once(api, base, far, ["running", "queued", "later"])
        assert (await api.get(base, "refused")).get("status") is None


async def test_a_store_that_is_away_is_told_of_once_by_the_log_and_by_a_gauge(
    tmp_path: Path,
) -> None:
    async with (
        redis_server(tmp_path) as server,
        behind() as far,
        replicas(tmp_path, server.url, far) as started,
        aiohttp.ClientSession() as session,
        patience(),
    ):
        replica = await started.start()

        async def shown(up: int) -> None:
            text = ""
            while f"\ngateway_store_up {up}.0\n" not in text:
                async with session.get(f"{replica.base}/metrics") as response:
                    text = await response.text()

        await shown(1)
        await server.kill()
        await shown(0)
        await server.start()
        await shown(1)

        def told() -> list[str]:
            return [line["event"] for line in replica.lines() if line.get("store") == server.url]

        await until(lambda: "the store answers again" in told())
        assert told() == ["the store does not answer", "the store answers again"]


@every_time
async def test_while_redis_is_frozen_nobody_is_taken_for_dead_and_nothing_stands_still(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with (
        redis_server(tmp_path_factory.mktemp("redis")) as server,
        behind() as far,
        gateway(configuration(server.url, far, lease_s=LEASE_S)) as one,
        gateway(configuration(server.url, far, lease_s=LEASE_S)) as two,
        client() as api,
    ):
        names = [f"x-{number}" for number in range(6)]  # some for each of the two
        hook = await api.hook(one, far.endpoint, "COMPLETED")
        for name in names:
            far.hold(name)
            await api.begin(one, name, hook, pieces=3, pause_s=0)
        await until(lambda: all(far.calls[name] for name in names))
        await api.create(two, "meanwhile", hook)
        async with Watch() as watch:
            server.freeze()
            asking = asyncio.create_task(api.submit(two, "meanwhile", 3, 0))
            try:
                pieces = int(3 * LEASE_S / 0.05)
                said = await api.query(one, "direct", pieces, 0.05)
                far.let_go(names[0])
            finally:
                server.thaw()
        assert said == spoken("direct", pieces)
        for name in names[1:]:
            far.let_go(name)
        with suppress(Refused):  # it has waited, or it was told to come again
            await asking
            names.append("meanwhile")
        await assert_done_once(api, two, far, names)
    assert watch.gap_s < GAP_S_MAX


@every_time
async def test_while_another_process_locks_the_file_nothing_is_lost_and_nothing_stands_still(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("kept") / "executions.db"
    async with (
        behind() as far,
        gateway(configuration(f"sqlite:{path}", far, lease_s=LEASE_S)) as base,
        client() as api,
    ):
        hook = await api.hook(base, far.endpoint, "COMPLETED")
        far.hold("running")
        await api.begin(base, "running", hook, pieces=5, pause_s=0)
        await api.create(base, "refused", hook)
        await until(lambda: far.calls["running"])
        async with process("lock", path) as other, Watch() as watch:
            assert other.stdout is not None
            assert other.stdin is not None
            assert await other.stdout.readline() == b"locked\n"
            asking = asyncio.create_task(refusal(api, base, "refused"))
            assert await api.query(base, "direct", 50, 0.05) == spoken("direct", 50)
            far.let_go("running")
            refused = await asking
            other.stdin.write(b"\n")
            assert await other.stdout.readline() == b"unlocked\n"
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        await api.begin(base, "later", hook, pieces=5, pause_s=0)
        await assert_done_once(api, base, far, ["running", "later"])
    assert watch.gap_s < GAP_S_MAX


# Full


#: Gives a store of a replica room for more, or takes it.
Room = Callable[[Replica, bool], Awaitable[None]]


@asynccontextmanager
async def bounded(kind: str, folder: Path) -> AsyncIterator[tuple[str, Room]]:
    """A store, and what bounds it."""

    async def of_files(replica: Replica, room: bool) -> None:
        # A limit on the size of files does to each write what a full disk does, and needs no
        # privileges.
        size = max(file.stat().st_size for file in folder.iterdir())
        limit = resource.RLIM_INFINITY if room else size + 4096
        resource.prlimit(replica.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    async def of_memory(replica: Replica, room: bool) -> None:
        limit = "0" if room else "2mb"
        assert await server.ask("CONFIG", "SET", "maxmemory", limit) == b"+OK\r\n"

    if kind == "sqlite":
        yield f"sqlite:{folder / 'executions.db'}", of_files
        return
    async with redis_server(folder) as server:
        yield server.url, of_memory


@pytest.mark.parametrize("kind", KINDS)
async def test_a_full_store_is_told_with_507_while_a_direct_stream_goes_on(
    kind: str, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    async with (
        bounded(kind, folder) as (store, room),
        behind() as far,
        replicas(tmp_path, store, far) as started,
        client() as api,
    ):
        replica = await started.start()
        base = replica.base
        hook = await api.hook(base, far.endpoint, "COMPLETED")
        far.hold("running")
        await api.begin(base, "running", hook, pieces=5, pause_s=0)
        await until(lambda: far.calls["running"])
        await api.create(base, "large", hook)
        direct = asyncio.create_task(api.query(base, "direct", 100, 0.02))
        await until(lambda: far.calls["direct"])
        await room(replica, False)
        file = base64.b64encode(bytes(range(256)) * 16 * 1024).decode()
        body = {"executionId": "large", "media": [file]}
        with pytest.raises(Refused) as caught:
            await api.ask("POST", f"{base}/v1/pipelines/talk/executeAsync", body)
        assert caught.value.status == 507
        assert '"store_full"' in str(caught.value)
        far.let_go("running")
        assert await direct == spoken("direct", 100)
        await room(replica, True)
        await api.begin(base, "later", hook, pieces=5, pause_s=0)
        await assert_done_once(api, base, far, ["running", "later"])
        assert (await api.get(base, "large")).get("status") is None


# Clocks


class Wall:
    """A clock on a wall, that somebody sets."""

    def __init__(self) -> None:
        self.off_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.off_s


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("back", [0, 1])
async def test_clocks_that_jump_an_hour_make_nothing_run_twice_nor_wait(
    kind: str, back: int, tmp_path: Path
) -> None:
    walls = [Wall(), Wall()]
    async with (
        shared(kind, tmp_path) as store,
        behind(lambda: True) as far,  # each message is put off once
        gateway(configuration(store, far, concurrency=2), wall=walls[0]) as one,
        gateway(configuration(store, far, concurrency=2), wall=walls[1]) as two,
        client() as api,
    ):
        hook = await api.hook(one, far.endpoint, "COMPLETED")
        names = [f"x-{number}" for number in range(6)]  # four of them run, two wait
        for name in names:
            far.hold(name)
            await api.begin(one, name, hook, pieces=3, pause_s=0)
        await until(lambda: sum(map(len, far.calls.values())) == 4)
        walls[back].off_s, walls[1 - back].off_s = -HOUR_S, HOUR_S
        await asyncio.sleep(3 * LEASE_S)
        assert sum(map(len, far.calls.values())) == 4
        for name in names:
            far.let_go(name)
        names += ["later-1", "later-2"]
        for base, name in zip((one, two), names[-2:], strict=True):
            await api.begin(base, name, hook, pieces=3, pause_s=0)
        await assert_done_once(api, two, far, names)
        walls[back].off_s, walls[1 - back].off_s = HOUR_S, -HOUR_S
        await api.begin(two, "last", hook, pieces=3, pause_s=0)
        await assert_done_once(api, one, far, ["last"])


@pytest.mark.parametrize("kind", KINDS)
async def test_what_ended_longer_ago_than_it_is_kept_is_removed(kind: str, tmp_path: Path) -> None:
    wall = Wall()
    async with shared(kind, tmp_path) as store, behind(lambda: False) as far, client() as api:
        config = configuration(store, far)
        async with gateway(config, wall=wall) as base:
            hook = await api.hook(base, far.endpoint, "COMPLETED")
            await api.begin(base, "old", hook, pieces=1, pause_s=0)
            await assert_done_once(api, base, far, ["old"])
        wall.off_s = 29 * DAY_S
        async with gateway(config, wall=wall) as base:
            await api.begin(base, "young", hook, pieces=1, pause_s=0)
            await assert_done_once(api, base, far, ["young"])
            assert (await api.get(base, "old"))["status"] == "COMPLETED"
        wall.off_s = 31 * DAY_S
        async with gateway(config, wall=wall) as base:
            while await kept_still(api, base, "old"):
                await asyncio.sleep(0.01)
            assert await kept_still(api, base, "young")


async def kept_still(api: Api, base: str, name: str) -> bool:
    try:
        await api.get(base, name)
    except Refused as refused:
        return refused.status != 404
    return True


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
async def test_a_dead_replica_is_taken_over_from_whatever_the_clock_on_the_wall_says(
    kind: str, jump_s: float, tmp_path: Path
) -> None:
    wall = Wall()
    async with (
        shared(kind, tmp_path) as store,
        behind() as far,
        replicas(tmp_path, store, far) as started,
        client() as api,
    ):
        replica = await started.start()
        far.hold("running")
        await api.begin(replica.base, "running", pieces=5, pause_s=0)
        await until(lambda: far.calls["running"])
        async with gateway(configuration(store, far), wall=wall) as base:
            await asyncio.sleep(LEASE_S / 2)  # it comes to know the other one
            wall.off_s = jump_s
            await replica.kill()
            far.let_go("running")
            events = await api.log(base, "running")
        assert [event.status for event in events if event.ended] == ["COMPLETED"]
        assert len(far.calls["running"]) == 2


# Faults of the gateway's own


class Faulty(SqliteStore):
    """A store that fails as none should, so many times; and when the first run is to end."""

    faults = 0
    ends = 0

    async def claim(self, holder: str, *, wait_s: float) -> Claim | None:
        self._fail()
        return await super().claim(holder, wait_s=wait_s)

    async def beat(self, holder: str) -> Beat:
        self._fail()
        return await super().beat(holder)

    async def finish(self, claim: Claim, first: int, ending: Ending, *, events_max: int) -> None:
        self.ends += 1
        if self.ends == 1:
            raise ZeroDivisionError
        await super().finish(claim, first, ending, events_max=events_max)

    def _fail(self) -> None:
        if self.faults:
            self.faults -= 1
            raise ZeroDivisionError


async def test_a_fault_of_the_gateways_own_stops_neither_a_run_nor_its_work_nor_its_life(
    tmp_path: Path,
) -> None:
    async def telling(*_: object, **__: object) -> tuple[Delivery, ...]:
        return ()

    async def nobody(_: Key) -> Telling:
        return telling

    def site() -> Site:
        raise ZeroDivisionError  # that fails the run, and the run alone

    store = Faulty(tmp_path / "executions.db")
    await store.open()
    runner = Runner(
        store,
        ExecutionsConfig(lease_s=LEASE_S),
        holder="it",
        site=site,
        telling=nobody,
        metrics=new_metrics(),
        clock=time.monotonic,
        wall=time.time,
    )
    await runner.start()
    store.faults = 4
    try:
        await until(lambda: store.faults == 0)
        await submitted(store, payload=orders.written(Request("talk", "request-1", text="x")))
        async with patience():
            while await status(store) is not Status.FAILED:
                await asyncio.sleep(0.01)
            assert store.ends == 2
            beats = (await store.beat("other")).holders["it"]
            while (await store.beat("other")).holders["it"] == beats:
                await asyncio.sleep(0.01)
    finally:
        await runner.close()
        await store.close()


# What must not be found any more


#: Tells whether a mark is anywhere in what a store holds.
Search = Callable[[bytes], Awaitable[bool]]


@asynccontextmanager
async def searched(kind: str, folder: Path) -> AsyncIterator[tuple[str, Search]]:
    """A store, and what looks into it."""

    async def files(mark: bytes) -> bool:
        return any(mark in file.read_bytes() for file in folder.glob("executions.db*"))

    async def keys(mark: bytes) -> bool:
        values = [await asking.dump(key) for key in await asking.keys()]
        return any(mark in (value or b"") for value in values)

    if kind == "sqlite":
        yield f"sqlite:{folder / 'executions.db'}", files
        return
    async with (
        redis_server(folder, rdbcompression="no") as server,
        Redis.from_url(server.url) as asking,
    ):
        yield server.url, keys


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_sent_with_a_run_is_nowhere_in_the_store_once_it_has_ended(
    kind: str, tmp_path: Path
) -> None:
    file, context = secrets.token_hex(50), secrets.token_hex(50)
    sent: dict[str, Any] = {
        "media": [base64.b64encode(file.encode()).decode()],
        "runtimeParameters": {"context": context},
    }

    async with searched(kind, tmp_path) as (store, search), patience():

        async def found() -> list[bool]:
            return [await search(mark.encode()) for mark in (file, context)]

        async with kept.running(f'{{store: "{store}"}}') as api:
            api.docs.gate.clear()
            queued = await api.submit(**sent)
            direct = asyncio.create_task(api.call("POST", kept.SYNC, json=sent))
            await until(lambda: len(api.docs.calls) == 2)
            assert await found() == [True, True]  # of the one that has to outlast this process
            api.docs.gate.set()
            await api.ended(queued)
            await direct
            while any(await found()):
                await asyncio.sleep(0.05)
            assert await api.texts(queued) == ["1 files"]
