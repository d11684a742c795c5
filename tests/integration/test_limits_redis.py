"""Limits of keys that workers and replicas share, in a real Redis."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Literal

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from gateway.limit_redis import ANSWER_S, RedisCounts
from gateway.metrics import Metrics
from gateway.quotas import Limit, Quota, Taken
from tests.support.gated import Reader
from tests.support.limited import SYNC, Limited, configuration, limited
from tests.support.redis_server import RedisServer, redis_server
from tests.support.remote import remote
from tests.support.serving import Serving, serving
from tests.support.timing import PATIENCE_S, every_time, patience, until


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path) as server:
        yield server


@asynccontextmanager
async def counts(
    redis: RedisServer,
    *,
    when_away: Literal["allow", "refuse"] = "refuse",
    lease_s: float = 30.0,
    step_ms: int = 100,
    answer_s: float = PATIENCE_S,
    metrics: Metrics | None = None,
    renews: bool = True,
) -> AsyncIterator[RedisCounts]:
    made = RedisCounts(
        redis.url,
        username=None,
        password=None,
        when_away=when_away,
        up=(metrics or Metrics(CollectorRegistry())).limits_store_up,
        clock=monotonic,
        lease_s=lease_s,
        step_ms=step_ms,
        answer_s=answer_s,
    )
    if renews:
        made.start()
    try:
        yield made
    finally:
        await made.close()


async def take(store: RedisCounts, quota: Quota, *, stream: bool = False) -> Taken:
    """As soon as Redis is there."""
    async with patience():
        while (taken := await store.take(quota, stream=stream)) is None:
            await asyncio.sleep(0.01)
    return taken


async def test_what_any_process_counts_counts_for_all(redis: RedisServer) -> None:
    quota = Quota("team", requests=50, streams=7, bytes=10**6)
    async with counts(redis) as first, counts(redis) as second, counts(redis) as third:
        stores = (first, second, third)
        taken = await asyncio.gather(*(take(stores[n % 3], quota) for n in range(150)))
        refused = Counter(each.usage.refused for each in taken)
        assert refused == {None: 50, Limit.MINUTE: 100}
        waits = [each.usage.minute_s for each in taken if each.usage.refused]
        assert all(50 < each <= 60.1 for each in waits)
        used = sorted(each.usage.requests for each in taken if each.usage.refused is None)
        assert used == list(range(1, 51))


async def test_no_window_has_more_requests_than_are_allowed_wherever_it_begins(
    redis: RedisServer,
) -> None:
    """The window is a hundredth of the real one."""
    quota, window_s = Quota("team", requests=10), 0.6
    passed: list[tuple[float, float]] = []
    async with counts(redis, step_ms=1) as first, counts(redis, step_ms=1) as second, patience():
        while len(passed) < 35:
            for store in (first, second):
                asked = monotonic()
                usage = (await take(store, quota)).usage
                if usage.refused is None:
                    passed.append((asked, monotonic()))
                else:
                    assert 0 < usage.minute_s <= window_s + 0.001
                    await asyncio.sleep(usage.minute_s / 3)
    for (began, _), (_, ended) in zip(passed, passed[10:], strict=False):
        assert ended - began > window_s


@every_time
async def test_a_stream_is_free_when_it_ends_and_soon_after_its_process_was_killed(
    redis: RedisServer,
) -> None:
    quota = Quota(f"team-{monotonic()}", streams=2)
    async with (
        counts(redis, lease_s=0.8) as living,
        counts(redis, lease_s=0.8, renews=False) as killed,
    ):
        held = await take(living, quota, stream=True)
        await take(killed, quota, stream=True)  # and it never says anything more
        assert (await take(living, quota, stream=True)).usage.refused is Limit.STREAMS
        async with patience():
            while (again := await take(living, quota, stream=True)).usage.refused:
                await asyncio.sleep(0.02)
        await asyncio.sleep(1.2)  # much longer than a lease: what is alive keeps its own
        assert (await take(living, quota, stream=True)).usage.refused is Limit.STREAMS
        for each in (held, again):
            each.end(0)
        async with patience():
            while (await take(killed, quota)).usage.streams:
                await asyncio.sleep(0.01)


async def test_a_stream_that_is_given_up_while_redis_is_asked_holds_nothing(
    redis: RedisServer,
) -> None:
    quota = Quota("team", streams=1)
    async with counts(redis) as store:
        await take(store, quota)
        redis.freeze()
        asking = asyncio.create_task(store.take(quota, stream=True))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        redis.thaw()
        async with patience():
            while True:
                taken = await take(store, quota, stream=True)
                if taken.usage.refused is None:
                    break
                await asyncio.sleep(0.01)


async def test_streams_of_a_process_that_stops_are_free_at_once(redis: RedisServer) -> None:
    quota = Quota("team", streams=1)
    async with counts(redis) as stopping, counts(redis) as other:
        await take(stopping, quota, stream=True)
        assert (await take(other, quota, stream=True)).usage.refused is Limit.STREAMS
        await stopping.close()
        assert (await take(other, quota, stream=True)).usage.refused is None


async def test_bytes_that_one_process_has_moved_are_used_up_for_all(redis: RedisServer) -> None:
    quota = Quota("team", bytes=100)
    async with counts(redis) as first, counts(redis) as second:
        (await take(first, quota)).end(60)
        assert (await take(first, quota)).usage.bytes == 60  # told with the next question
        (await take(first, quota)).end(60)
        async with patience():  # or a moment later
            while (taken := await take(second, quota)).usage.refused is None:
                await asyncio.sleep(0.01)
        assert (taken.usage.refused, taken.usage.bytes) == (Limit.DAY, 120)
        assert 0 < taken.usage.day_s <= 86_400


async def test_bytes_that_were_moved_while_redis_was_away_are_told_when_it_is_there_again(
    redis: RedisServer,
) -> None:
    quota = Quota("team", bytes=1000)
    async with counts(redis, when_away="allow") as store, patience():
        taken = [await take(store, quota) for _ in range(3)]
        await redis.kill()
        taken[0].end(60)
        assert await store.take(quota, stream=False) is None
        taken[1].end(30)
        await redis.start()
        while (await take(store, quota)).usage.bytes != 90:
            await asyncio.sleep(0.01)
        taken[2].end(0)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_while_redis_is_away_requests_are_let_through_or_refused_and_never_wait_for_it(
    redis: RedisServer, fault: str
) -> None:
    quota, metrics = Quota("team", requests=1), Metrics(CollectorRegistry())
    async with (
        counts(redis, when_away="allow", metrics=metrics, answer_s=ANSWER_S) as allowing,
        counts(redis, when_away="refuse", answer_s=ANSWER_S) as refusing,
        patience(),
    ):
        await take(allowing, quota)
        await until(lambda: metrics.limits_store_up.labels().value == 1)
        if fault == "killed":
            await redis.kill()
        else:
            redis.freeze()
        asked = [
            store.take(quota, stream=False) for store in (allowing, refusing) for _ in range(50)
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert answers[:50] == [None] * 50
        assert {str(answer) for answer in answers[50:]} == {"the store of limits cannot be reached"}
        assert metrics.limits_store_up.labels().value == 0
        if fault == "killed":
            await redis.start()
        else:
            redis.thaw()
        await until(lambda: metrics.limits_store_up.labels().value == 1)
        assert (await take(allowing, quota)).usage.refused is Limit.MINUTE


async def test_streams_that_ended_while_redis_was_away_are_free_as_soon_as_it_is_there_again(
    redis: RedisServer,
) -> None:
    quota = Quota("team", streams=2)
    async with counts(redis, when_away="allow", lease_s=3600, answer_s=ANSWER_S) as store:
        held = await take(store, quota, stream=True)
        redis.freeze()
        assert await store.take(quota, stream=True) is None  # it may be counted when that wakes
        held.end(0)
        redis.thaw()
        for _ in range(2):
            async with patience():
                while (await take(store, quota, stream=True)).usage.refused is not None:
                    await asyncio.sleep(0.01)


async def test_streams_that_are_open_still_count_when_redis_comes_back_empty(
    tmp_path: Path,
) -> None:
    quota = Quota("team", streams=1)
    async with (
        redis_server(tmp_path, appendonly="no") as redis,
        counts(redis, when_away="allow", lease_s=3600) as store,
    ):
        await take(store, quota, stream=True)
        await redis.kill()
        assert await store.take(quota, stream=False) is None
        await redis.start()
        assert (await take(store, quota, stream=True)).usage.refused is Limit.STREAMS


async def test_a_redis_that_is_full_is_away_until_there_is_room_in_it(redis: RedisServer) -> None:
    quota, metrics = Quota("team", requests=1000), Metrics(CollectorRegistry())
    up = metrics.limits_store_up.labels()
    async with counts(redis, when_away="allow", lease_s=0.3, metrics=metrics) as store:
        await take(store, quota)
        await until(lambda: up.value == 1)
        await redis.ask("CONFIG", "SET", "maxmemory", "1")
        assert await store.take(quota, stream=False) is None
        for _ in range(50):  # while it is asked several times
            assert up.value == 0
            await asyncio.sleep(0.01)
        await redis.ask("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: up.value == 1)
        assert (await take(store, quota)).usage.refused is None


async def test_a_redis_that_was_emptied_counts_from_nothing(redis: RedisServer) -> None:
    quota = Quota("team", requests=1)
    async with counts(redis) as store:
        await take(store, quota)
        for key in ("c:team", "b:team"):
            assert (await take(store, quota)).usage.refused is Limit.MINUTE
            await redis.ask("DEL", f"pipeline-gateway:limits:{key}")  # as it may evict them
            assert (await take(store, quota)).usage.refused is None
        await redis.ask("SCRIPT", "FLUSH")
        assert (await take(store, quota)).usage.refused is Limit.MINUTE


@pytest.mark.parametrize(("when_away", "status"), [("allow", 200), ("refuse", 503)])
async def test_callers_are_told_what_becomes_of_them_while_redis_is_away(
    redis: RedisServer, when_away: str, status: int
) -> None:
    more = f'limits: {{store: "{redis.url}", when_away: {when_away}}}'
    async with limited(more, team="{requests_per_minute_max: 1000}") as gateway, patience():
        before = await told(gateway)
        await redis.kill()
        answered, head, body = await gateway.call("team")
        assert answered == status
        assert head["RateLimit-Policy" if status == 200 else "Retry-After"]
        assert "RateLimit" not in head
        assert status == 200 or b'"store_unavailable"' in body
        assert await gateway.metric("gateway_limits_store_up 0.0")
        await redis.start()
        while not await gateway.metric("gateway_limits_store_up 1.0"):
            await asyncio.sleep(0.01)
        assert await told(gateway) < before


async def told(gateway: Limited) -> int:
    """How many requests are left, as soon as Redis is there."""
    while True:
        _, head, _ = await gateway.call("team")
        if (found := re.match(r'"minute";r=(\d+);', head.get("RateLimit", ""))) is not None:
            return int(found[1])
        await asyncio.sleep(0.01)


async def test_exactly_as_many_get_through_two_replicas_of_two_workers_as_may(
    redis: RedisServer, tmp_path: Path
) -> None:
    more = (
        "server: {port: 0, workers: 2, watch: false, pre_stop_s: 0}\n"
        "transforms: {client: {processes: 1}}\n"
        f'limits: {{store: "{redis.url}", when_away: refuse}}'
    )
    lost = 0
    async with remote(Reader()) as docs, AsyncExitStack() as stack:
        path = tmp_path / "gateway.yaml"
        text = configuration(docs.url, docs.url, {"team": "{requests_per_minute_max: 40}"}, more)
        path.write_text(text.replace("executions: {}", ""))
        replicas: list[Serving] = await asyncio.gather(
            *(stack.enter_async_context(serving(path)) for _ in range(2))
        )
        connector = aiohttp.TCPConnector(limit=64, force_close=True)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))

        async def call(base: str) -> int:
            nonlocal lost
            while True:
                url, headers = f"{base}{SYNC}", {"X-API-Key": "team"}
                async with session.post(url, headers=headers, json={"text": "a"}) as response:
                    await response.read()
                if response.status != 503:
                    return response.status
                lost += 1  # Redis was too slow, on a machine that is; it may have counted this one

        async with patience():
            calls = [call(replicas[n % 2].base) for n in range(200)]
            statuses = Counter(await asyncio.gather(*calls))
        assert 40 - lost <= statuses[200] <= 40
        assert statuses.total() == statuses[200] + statuses[429]
