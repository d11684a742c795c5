"""Executions in a real Redis that is killed, frozen, full, or not to be reached for a while."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import pytest
from redis.asyncio import Redis

from gateway.errors import Code, StoreFailed
from gateway.executions.pulse import Pulse
from gateway.executions.records import BEGINNING, Claim, Key, Status
from gateway.executions.redis import RedisStore
from gateway.executions.store import Superseded
from gateway.model import Media
from tests.support.faultproxy import Act, Fault, FaultProxy, fault_proxy
from tests.support.redis_server import RedisServer, redis_server
from tests.support.sandboxes import Watch
from tests.support.stores import (
    KEY,
    NOON,
    begun,
    claimed,
    delivery,
    ending,
    finished,
    new,
    status,
    submitted,
    texts,
    wrote,
)
from tests.support.timing import every_time, patience, promised

MIB = 1024 * 1024
OBSERVATION = b'{"mediaContents":[{"mediaId":"a"}]}'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path) as running:
        yield running


@asynccontextmanager
async def opened(
    url: str, username: str | None = None, password: str | None = None
) -> AsyncIterator[RedisStore]:
    store = RedisStore(url, username=username, password=password)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    async with opened(server.url) as handle:
        yield handle


@asynccontextmanager
async def through_proxy(server: RedisServer) -> AsyncIterator[tuple[RedisStore, FaultProxy]]:
    """A handle whose connections can be broken."""
    async with (
        fault_proxy(server.port) as proxy,
        opened(f"redis://127.0.0.1:{proxy.port}/0") as handle,
    ):
        yield handle, proxy


async def insisted(call: Callable[[], Awaitable[None]]) -> None:
    """As whoever has a run in its hands asks: until there is an answer."""
    async with patience():
        while True:
            try:
                return await call()
            except StoreFailed:
                await asyncio.sleep(0.01)


async def again(store: RedisStore) -> None:
    """Return when the store works again."""
    await insisted(lambda: _anything(store))


async def _anything(store: RedisStore) -> None:
    await store.counts()


def _key(number: int) -> Key:
    return Key("tenant", f"execution-{number}")


# Killed


async def test_nothing_acknowledged_is_lost_when_redis_is_killed(
    server: RedisServer, store: RedisStore
) -> None:
    acknowledged: set[Key] = set()
    refused: list[StoreFailed] = []

    async def submitting(first: int) -> None:
        for number in range(first, first + 10_000):
            try:
                await submitted(store, "run-1", _key(number), runs_max=10**6)
            except StoreFailed as error:
                refused.append(error)
                return
            acknowledged.add(_key(number))

    tasks = [asyncio.create_task(submitting(first * 10_000)) for first in range(20)]
    while len(acknowledged) < 500:
        await asyncio.sleep(0.001)
    await server.kill()
    async with patience():
        await asyncio.gather(*tasks)
    with pytest.raises(StoreFailed) as caught:
        await store.get(KEY)
    assert {error.code for error in (*refused, caught.value)} == {Code.STORE_UNAVAILABLE}
    # Where it is does not concern who is refused.
    assert {error.message for error in refused} == {"the store of executions cannot be reached"}
    assert all(error.retry_after_s for error in (*refused, caught.value))

    await server.start()
    found: set[Key] = set()
    while (claim := await store.claim("holder", wait_s=0)) is not None:
        assert claim.key not in found
        found.add(claim.key)
        await finished(store, claim)
    assert found >= acknowledged
    assert len(found) <= len(acknowledged) + len(refused)


@every_time
async def test_the_store_works_within_a_second_of_redis_being_back(tmp_path: Path) -> None:
    folder = Path(mkdtemp(dir=tmp_path))
    async with redis_server(folder) as server, opened(server.url) as store:
        await asyncio.gather(*(submitted(store, key=_key(number)) for number in range(50)))
        await server.kill()
        with pytest.raises(StoreFailed):
            await claimed(store)
        await server.start()
        async with promised(within_s=1.0):
            claims = await asyncio.gather(*(claimed(store) for _ in range(50)))
        assert {claim.attempt for claim in claims} == {1}


async def test_a_turn_goes_on_after_redis_was_killed(
    server: RedisServer, store: RedisStore
) -> None:
    await submitted(store)
    await store.beat("holder")
    claim = await claimed(store)
    await wrote(store, claim, 1, b"1", b"2", status=Status.RUNNING)
    await server.kill()
    with pytest.raises(StoreFailed):
        await wrote(store, claim, 3, b"3")
    await server.start()
    await wrote(store, claim, 3, b"3")
    await finished(store, claim, 4, ending(Status.COMPLETED, b"4", observation=OBSERVATION))
    assert await texts(store) == [b"1", b"2", b"3", b"4"]
    assert await store.observation(KEY) == OBSERVATION


async def test_who_waited_when_redis_was_killed_is_told_of_what_comes_then(
    server: RedisServer, store: RedisStore
) -> None:
    claim = await begun(store)
    waiting = asyncio.create_task(store.news(KEY, BEGINNING, wait_s=600))
    claiming = asyncio.create_task(store.claim("holder", wait_s=600))
    await asyncio.sleep(0.2)
    await server.kill()
    with pytest.raises(StoreFailed):
        await claiming
    with pytest.raises(StoreFailed):
        await waiting
    await server.start()
    waiting = asyncio.create_task(store.news(KEY, BEGINNING, wait_s=600))
    claiming = asyncio.create_task(store.claim("holder", wait_s=600))
    await asyncio.sleep(0.2)
    await wrote(store, claim, 1, b"1")
    await submitted(store, "run-2")
    async with patience():
        await waiting
        assert await claiming is not None


# Frozen


async def test_a_frozen_redis_holds_up_nobody_for_long_and_kills_nobody(
    server: RedisServer, store: RedisStore
) -> None:
    lease_s, pulse, dead = 2.0, Pulse(2.0), list[tuple[str, int]]()
    clock = asyncio.get_running_loop().time

    async def beating(handle: RedisStore, holder: str, *, looks: bool) -> None:
        while True:
            with suppress(StoreFailed):
                others = dict((await handle.beat(holder)).holders)
                del others[holder]
                if looks:
                    dead.extend(pulse.look(others, clock()))
            await asyncio.sleep(lease_s / 5)

    async with opened(server.url) as other, Watch() as watch:
        lives = [
            asyncio.create_task(beating(store, "one", looks=True)),
            asyncio.create_task(beating(other, "two", looks=False)),
        ]
        await submitted(store)
        await asyncio.sleep(1.0)
        server.freeze()
        for _ in range(2):
            async with promised(within_s=8.0):
                with pytest.raises(StoreFailed) as caught:
                    await claimed(store, "one")
            assert caught.value.code is Code.STORE_UNAVAILABLE
        server.thaw()
        await again(store)
        # What was on its way to Redis all the time is done only now, and then undone.
        claim = await claimed(other, "two", wait_s=30)
        assert claim.attempt == 1
        await finished(other, claim)
        await asyncio.sleep(2 * lease_s)
        for life in lives:
            life.cancel()
    assert dead == []
    assert (await store.beat("one")).held == frozenset()
    assert watch.gap_s < 0.1


# Answers that get lost


async def _claims(store: RedisStore) -> None:
    await claimed(store)


async def _begins(store: RedisStore) -> None:
    await begun(store, "run-2")


async def _begins_another(store: RedisStore) -> None:
    await begun(store, "run-1", Key("tenant", "another"))


async def _takes_over(store: RedisStore) -> None:
    await store.take_over("dead", 1, "holder", attempts_max=3)


async def _is_due(store: RedisStore) -> None:
    await store.due("holder", NOON, limit=9)


TAKING = {
    "a claim": _claims,
    "a direct run": _begins,
    "a direct run of a new execution": _begins_another,
    "what a dead one left": _takes_over,
    "deliveries": _is_due,
}


@pytest.mark.parametrize("what", TAKING)
async def test_nothing_stays_in_hands_that_do_not_know_of_it(
    server: RedisServer, store: RedisStore, what: str
) -> None:
    dying = Key("tenant", "dying")
    await submitted(store)
    await store.beat("dead")
    await begun(store, key=dying, holder="dead")
    await store.add_deliveries([delivery()])
    async with through_proxy(server) as (cut_off, proxy):
        await again(cut_off)
        proxy.strike(Fault(Act.RESET))
        with pytest.raises(StoreFailed):
            await TAKING[what](cut_off)
        proxy.strike(Fault())
        async with patience():
            while (await store.beat("holder")).held:
                await asyncio.sleep(0.01)
            while (beats := (await store.beat("holder")).holders.get("dead")) is None:
                await asyncio.sleep(0.01)
            while not (messages := await store.due("other", NOON, limit=9)):
                await asyncio.sleep(0.01)
        assert [message.id for message in messages] == ["message-1"]
        claim = await claimed(store, "other", wait_s=30)
        assert (claim.key, claim.attempt) == (KEY, 1)
        assert await status(store) is Status.QUEUED
        await finished(store, claim)
        assert await status(store) is Status.COMPLETED
        assert await store.get(Key("tenant", "another")) is None
        lost = await store.take_over("dead", beats, "other", attempts_max=3)
        assert lost is not None
        assert [each.key for each in lost] == [dying]


async def test_every_run_ends_once_however_often_connections_break(server: RedisServer) -> None:
    runs = 150
    ended: list[Claim] = []

    async def working(handle: RedisStore, holder: str) -> None:
        while len(ended) < runs:
            try:
                claim = await handle.claim(holder, wait_s=0.2)
            except StoreFailed:
                continue
            if claim is None:
                continue
            observation = b'{"mediaContents":[{"mediaId":"%b"}]}' % claim.run_id.encode()
            end = ending(Status.COMPLETED, claim.run_id.encode(), observation=observation)
            with suppress(Superseded):  # an answer got lost, and it was written before
                await insisted(lambda: finished(handle, claim, end=end))  # noqa: B023
            ended.append(claim)

    async def breaking(*proxies: FaultProxy) -> None:
        while True:
            for proxy in proxies:
                await asyncio.sleep(0.02)
                await proxy.reset_all()

    async with (
        opened(server.url) as sure,
        through_proxy(server) as (one, near),
        through_proxy(server) as (two, far),
    ):
        tasks = [asyncio.create_task(breaking(near, far))]
        tasks += [
            asyncio.create_task(working(handle, f"{number}"))
            for number, handle in enumerate((one, two))
            for _ in range(3)
        ]
        for number in range(runs):
            key = _key(number % 10)
            await insisted(lambda: submitted(one, f"run-{number}", key))  # noqa: B023
        async with patience():
            await asyncio.gather(*tasks[1:])
        tasks[0].cancel()
        for number in range(10):
            found = await sure.observation(_key(number))
            assert found is not None
            names = [f"run-{n}" for n in range(number, runs, 10)]
            assert [found.count(b'"%b"' % name.encode()) for name in names] == [1] * len(names)
            assert await texts(sure, _key(number)) == [name.encode() for name in names]
            assert await status(sure, _key(number)) is Status.COMPLETED


async def test_a_thousand_who_wait_for_news_share_a_few_connections(
    server: RedisServer, store: RedisStore
) -> None:
    keys = [_key(number) for number in range(1000)]
    claims = await asyncio.gather(*(begun(store, key=key) for key in keys))
    waiting = [
        asyncio.create_task(store.news(claim.key, BEGINNING, wait_s=600)) for claim in claims
    ]
    await asyncio.sleep(0.5)
    async with Redis.from_url(server.url) as asking:
        assert (await asking.info("clients"))["connected_clients"] < 10
    assert not any(task.done() for task in waiting)
    async with patience():
        await asyncio.gather(*(wrote(store, claim, 1, b"1") for claim in claims), *waiting)


# Full, or not meant for us


async def test_a_full_redis_takes_no_more_but_ends_and_shows_what_is_there(
    server: RedisServer, store: RedisStore
) -> None:
    await submitted(store)
    await store.beat("holder")
    claim = await claimed(store)
    await server.ask("CONFIG", "SET", "maxmemory", "3mb")

    async def filling() -> None:
        for number in range(100):
            await submitted(store, key=_key(number), payload=secrets.token_bytes(MIB // 4))

    with pytest.raises(StoreFailed) as caught:
        await filling()
    assert (caught.value.code, caught.value.status) == (Code.STORE_FULL, 507)
    await server.ask("CONFIG", "SET", "maxmemory", "1mb")
    for refused in (
        store.create(new(Key("tenant", "new"))),
        store.merge(KEY, OBSERVATION, replace=False),
        store.add_media(KEY, Media("m-1", b"png", "image/png"), media_max=9),
        wrote(store, claim, 1, b"1"),
    ):
        with pytest.raises(StoreFailed, match="can take no more"):
            await refused
    assert await status(store) is Status.QUEUED
    assert await store.observation(KEY) is None
    assert await texts(store) == []
    assert (await store.beat("holder")).held == {(KEY, claim.turn)}
    await finished(store, claim, end=ending(Status.COMPLETED, b"1", observation=OBSERVATION))
    assert await store.observation(KEY) == OBSERVATION
    while (more := await store.claim("holder", wait_s=0)) is not None:
        await finished(store, more)
        await store.delete(more.key)
    await server.ask("CONFIG", "SET", "maxmemory", "3mb")
    assert await store.create(new(Key("tenant", "new")))


async def test_a_redis_that_turned_read_only_is_not_there_for_a_while(
    server: RedisServer, store: RedisStore
) -> None:
    await submitted(store)
    await server.ask("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreFailed) as caught:
        await claimed(store)
    assert (caught.value.code, caught.value.retry_after_s) == (Code.STORE_UNAVAILABLE, 1)
    await server.ask("REPLICAOF", "NO", "ONE")
    assert (await claimed(store)).attempt == 1


async def test_a_wrong_password_is_told_when_it_is_opened(tmp_path: Path) -> None:
    async with redis_server(tmp_path, requirepass="right") as server:
        for password in ("wrong", None):
            store = RedisStore(server.url, password=password)
            with pytest.raises(StoreFailed) as caught:
                await store.open()
            await store.close()
            assert f"127.0.0.1:{server.port}" in caught.value.message
            assert "password" in caught.value.message
            assert "wrong" not in caught.value.message
        async with opened(server.url, password="right") as store:
            assert await store.create(new())


async def test_a_user_with_no_more_than_is_needed_will_do(server: RedisServer) -> None:
    rules = (
        "on",
        ">word",
        "~gateway:*",
        "resetchannels",
        "&gateway:*",
        "+@all",
        "-@dangerous",
        "-@admin",
    )
    assert await server.ask("ACL", "SETUSER", "app", *rules) == b"+OK\r\n"
    async with opened(server.url, "app", "word") as store:
        await submitted(store)
        await finished(store, await claimed(store, wait_s=1))
    await server.ask("ACL", "SETUSER", "app", "-evalsha", "-eval")
    async with opened(server.url, "app", "word") as store:
        with pytest.raises(StoreFailed, match="does not permit its user what is needed"):
            await submitted(store)


async def test_a_redis_that_throws_away_what_it_has_no_room_for_is_refused(tmp_path: Path) -> None:
    limits = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
    async with redis_server(tmp_path, **limits) as server:
        store = RedisStore(server.url)
        with pytest.raises(StoreFailed, match="noeviction"):
            await store.open()
        await store.close()


async def test_where_no_redis_is_opening_says_so(server: RedisServer) -> None:
    await server.kill()
    store = RedisStore(server.url)
    said = (
        f"127.0.0.1:{server.port}: the store of executions cannot be reached: .*Connect call failed"
    )
    with pytest.raises(StoreFailed, match=said):
        await store.open()
    await store.close()


async def test_opening_says_what_redis_has_against_it(server: RedisServer) -> None:
    store = RedisStore(server.url.removesuffix("/0") + "/99")
    with pytest.raises(StoreFailed, match="DB index is out of range"):
        await store.open()
    await store.close()


# What is kept, and what is asked


async def _whole_life(store: RedisStore) -> None:
    """Everything that a store is ever asked, once."""
    message = delivery()
    await store.create(new(tag="tag"))
    await store.add_media(KEY, Media("m-1", b"png", "image/png"), media_max=9)
    await submitted(store, "run-1")
    await submitted(store, "run-2", deliveries=[message])
    await store.release(await claimed(store))
    claim = await claimed(store)
    await wrote(store, claim, 1, b"1", status=Status.RUNNING)
    await store.take_over(
        "holder", (await store.beat("holder")).holders["holder"], "other", attempts_max=9
    )
    await finished(store, await claimed(store, "other"), end=ending(observation=OBSERVATION))
    await store.cancel(KEY, NOON)
    direct = await begun(store, "run-3")
    await store.write(direct, 1, [b"1", b"2"], events_max=1)
    await finished(store, direct, 3)
    await store.merge(KEY, OBSERVATION, replace=True)
    await store.record(new(Key("tenant", "recorded")), ending())
    [due] = await store.due("holder", NOON, limit=9)
    await store.put_off(due)
    await store.delivered(due)
    waiting = asyncio.create_task(store.claim("holder", wait_s=9))
    await asyncio.sleep(0.1)
    waiting.cancel()
    await store.news(KEY, BEGINNING, wait_s=9)
    await store.listed("tenant", tag="tag")
    await store.all_media(KEY)
    await store.expire(NOON + 99, NOON + 99)
    await store.leave("holder")


async def test_nothing_depends_on_the_clock_of_the_server(
    server: RedisServer, store: RedisStore
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"MONITOR\r\n")
    await reader.readuntil(b"\r\n")
    await _whole_life(store)
    await store.create(new())
    await server.ask("PING", "the end")
    asked = set[str]()
    async with patience():
        while b'"the end"' not in (line := await reader.readline()):
            asked.add(line.split(b'"')[1].decode().lower())
    writer.close()
    assert {"evalsha", "zadd", "hset", "publish", "subscribe"} <= asked
    of_time = {"time", "ttl", "pttl", "object", "setex", "psetex", "getex", "keys", "scan"}
    assert not {
        name for name in asked if name in of_time or "expire" in name or name.startswith("x")
    }


async def test_nothing_of_a_removed_execution_is_left(
    server: RedisServer, store: RedisStore
) -> None:
    await _whole_life(store)
    async with Redis.from_url(server.url, decode_responses=True) as asking:
        left = {str(key).removeprefix("gateway:") for key in await asking.keys()}
        counts = await asking.hgetall("gateway:statuses")
    assert left <= {"numbers", "statuses", "bytes", "beats", "void:holder"}
    assert set(counts.values()) <= {"0"}
    assert await store.log_bytes() == 0


async def test_what_was_sent_with_a_run_is_gone_with_its_end(tmp_path: Path) -> None:
    async with (
        redis_server(tmp_path, rdbcompression="no") as server,
        opened(server.url) as store,
        Redis.from_url(server.url) as asking,
    ):
        secret, spoken = secrets.token_bytes(200), secrets.token_bytes(200)

        async def kept() -> bool:
            values = [await asking.dump(key) for key in await asking.keys()]
            return any(secret in (value or b"") or spoken in (value or b"") for value in values)

        await submitted(store, payload=spoken, media=[Media("m-1", secret, "image/png")])
        assert await kept()
        claim = await claimed(store)
        assert (claim.payload, claim.media[0].data) == (spoken, secret)
        await finished(store, claim)
        assert not await kept()
        await submitted(store, "run-2", payload=spoken)
        assert await kept()
        await store.cancel(KEY, NOON)
        assert not await kept()


@every_time
async def test_large_media_hold_up_nobody_in_the_same_process(tmp_path: Path) -> None:
    media = Media("m-1", secrets.token_bytes(32 * MIB), "application/pdf")
    folder = Path(mkdtemp(dir=tmp_path))
    async with redis_server(folder) as server, opened(server.url) as store:
        await store.create(new())
        async with patience(), Watch() as watch:
            await store.add_media(KEY, media, media_max=9)
            assert await store.media(KEY, "m-1") == media
            await store.submit(KEY, "run-1", b"", [media], queued_at=NOON, runs_max=9)
            assert (await claimed(store)).media == (media,)
        assert watch.gap_s < 0.1


async def test_an_observation_is_whole_however_long_it_becomes(store: RedisStore) -> None:
    await store.create(new())
    entries: list[bytes] = []
    for size in (10, MIB, 10, 3 * MIB):
        entries.append(b'{"mediaId":"m%d","rawText":"%b"}' % (len(entries), b"x" * size))
        await store.merge(KEY, b'{"mediaContents":[%b]}' % entries[-1], replace=False)
        assert await store.observation(KEY) == b'{"mediaContents":[%b]}' % b",".join(entries)
    short = b'{"mediaId":"m1"},{"mediaId":"m3"}'
    await store.merge(KEY, b'{"mediaContents":[%b]}' % short, replace=True)
    found = await store.observation(KEY)
    assert found is not None
    assert len(found) < 1000


@every_time
async def test_a_large_observation_holds_up_nobody_in_the_same_process(tmp_path: Path) -> None:
    large = b'{"mediaContents":[{"mediaId":"m","rawText":"%b"}]}' % (b"x" * 32 * MIB)
    async with redis_server(Path(mkdtemp(dir=tmp_path))) as server, opened(server.url) as store:
        await submitted(store)
        claim = await claimed(store)
        async with patience(), Watch() as watch:
            await finished(store, claim, end=ending(observation=large))
            assert await store.observation(KEY) == large
        assert watch.gap_s < 0.1


async def test_the_log_keeps_its_bound_in_one_script_however_much_is_dropped(
    store: RedisStore,
) -> None:
    claim = await begun(store)
    for first in range(1, 20_001, 5000):
        events = [b"%d" % number for number in range(first, first + 5000)]
        await store.write(claim, first, events, events_max=100_000)
    await store.finish(claim, 20_001, ending(Status.COMPLETED, b"end"), events_max=10)
    assert await texts(store) == [*(b"%d" % n for n in range(19_992, 20_001)), b"end"]
    assert await store.log_bytes() == 9 * 5 + 3
