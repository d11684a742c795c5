"""Executions where two things happen at once that seldom do, or where what should not fail does:
nothing is left running for ever, nobody waits for ever, and nobody is told what is not so."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Code, RequestRejected, StoreFailed
from gateway.executions import orders
from gateway.executions.eventlog import EventLog
from gateway.executions.feeds import Feeds
from gateway.executions.records import (
    BEGINNING,
    Claim,
    Delivery,
    Ending,
    EventId,
    Key,
    Page,
    Status,
)
from gateway.executions.runner import Found, Runner, Telling
from gateway.executions.sqlite import SqliteStore
from gateway.executions.store import Store
from gateway.model import Request
from gateway.sections import ExecutionsConfig
from gateway.serving import new_metrics
from gateway.site import Site
from tests.support.client import read_events
from tests.support.gated import Talker
from tests.support.kept import STREAM, SYNC, running
from tests.support.remote import remote
from tests.support.running import client
from tests.support.serving import serving
from tests.support.stores import KEY, begun, finished, new, status, submitted, texts, wrote
from tests.support.timing import PATIENCE_S, patience

DOES_NOT_MATTER = orders.written(Request("talk", "request-1", text="x"))


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[None]:
    await store.open()
    try:
        yield
    finally:
        await store.close()


@asynccontextmanager
async def runner_on(
    store: Store, site: Callable[[], Site] | None = None, **options: Any
) -> AsyncIterator[Runner]:
    """A runner that is not started; ``site``: where it looks for what is to be run."""

    async def telling(*_: object, **__: object) -> tuple[Delivery, ...]:
        return ()

    async def nobody(_: Key) -> Telling:
        return telling

    def nowhere() -> Site:
        raise ZeroDivisionError  # which fails the run

    made = Runner(
        store,
        ExecutionsConfig(**options),
        holder="it",
        site=site or nowhere,
        telling=nobody,
        metrics=new_metrics(),
        clock=time.monotonic,
        wall=time.time,
    )
    try:
        yield made
    finally:
        await made.close()


async def ended(store: Store, key: Key = KEY) -> Status:
    async with patience():
        while True:
            found = await status(store, key)
            if found is not None and found.ended:
                return found
            await asyncio.sleep(0.01)


# What is ended from outside


class CancelledAtOnce(SqliteStore):
    """A store that has each run cancelled between its being claimed and its first step."""

    cancels: Callable[[Key], None]

    async def claim(self, holder: str, *, wait_s: float) -> Claim | None:
        claim = await super().claim(holder, wait_s=wait_s)
        if claim is not None:
            asyncio.get_running_loop().call_soon(self.cancels, claim.key)
        return claim


async def test_a_run_that_is_cancelled_before_its_first_step_is_ended(tmp_path: Path) -> None:
    store = CancelledAtOnce(tmp_path / "executions.db")
    async with opened(store), runner_on(store, concurrency=1) as runner:
        store.cancels = runner.cancel
        await submitted(store, payload=DOES_NOT_MATTER)
        await runner.start()
        assert await ended(store) is Status.CANCELLED


async def test_what_is_answered_just_as_its_caller_goes_is_given_back(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "executions.db")
    loop = asyncio.get_running_loop()
    async with opened(store):
        await store.create(new())
        await submitted(store)
        for call in (
            store.begin(KEY, "direct", "gone", queued_at=0.0),
            store.claim("gone", wait_s=9.0),
        ):
            asked = asyncio.create_task(call)
            await asyncio.sleep(0)
            time.sleep(0.3)
            loop.call_soon(asked.cancel)
            await asyncio.gather(asked, return_exceptions=True)
            assert asked.cancelled()
            async with patience():
                while (await store.beat("gone")).held:
                    await asyncio.sleep(0.01)


async def test_runs_of_an_execution_that_was_removed_and_made_again_are_told_apart(
    tmp_path: Path,
) -> None:
    store = SqliteStore(tmp_path / "executions.db")
    working = asyncio.Semaphore(0)

    async def work(log: EventLog) -> Found:
        working.release()
        return await asyncio.Future()

    async with opened(store), runner_on(store) as runner, patience():
        runs, turns = [], set()
        for run_id in ("run-1", "run-2"):
            claim = await begun(store, run_id, holder="it")
            turns.add(claim.turn)
            runs.append(asyncio.create_task(runner.direct(claim, work)))
            await working.acquire()
            if run_id == "run-1":
                await store.delete(KEY)  # as another replica does
        assert len(turns) == 1
        runner.cancel(KEY)
        ends = [str(end) for end in await asyncio.gather(*runs, return_exceptions=True)]
        assert ends == ['there is no execution "execution"', "the execution was cancelled"]
        assert await status(store) is Status.CANCELLED


async def test_a_run_that_goes_on_without_its_client_keeps_the_configuration_it_began_with(
    tmp_path: Path,
) -> None:
    talk = Talker()
    talk.gate.clear()
    path = tmp_path / "gateway.yaml"
    async with remote(talk) as upstream:
        text = (
            f"server: {{port: 0, pre_stop_s: 0}}\nexecutions: {{resume_s: 30}}\n"
            f'upstreams: {{talk: {{kind: pupau, url: "{upstream.url}"}}}}\n'
            f"pipelines: {{chat: {{upstream: talk}}}}\n"
        )
        path.write_text(text)
        async with serving(path) as gateway, client(gateway.base) as session:
            url = "/v1/pipelines/chat/executeSync"
            async with session.post(url, json={"text": "x"}, headers=STREAM) as response:
                execution_id = response.headers["X-Execution-Id"]
                await response.content.readany()
            path.write_text(text + "transforms: {time_s: 3}\n")
            await gateway.said("configuration loaded")
            for _ in range(20):
                await (await session.get("/healthz")).read()
            assert gateway.times("configuration retired") == 0
            talk.gate.set()
            async with session.get(f"/v1/executions/{execution_id}/events") as response:
                assert (await read_events(response))[-1]["status"] == "COMPLETED"
            await gateway.said("configuration retired")


# What a direct call is answered


async def test_a_transient_call_that_webhooks_are_told_of_is_answered() -> None:
    async with running("{hooks: {allow_networks: [127.0.0.0/8]}}") as api:
        about = {"eventType": "STATUS_CHANGE", "endpoint": "http://127.0.0.1:1/"}
        hook = await api.call("POST", "/v1/hooks", json=about)
        asked = {"text": "hello", "transient": True, "hookIds": [hook["hookId"]]}
        answer = await api.call("POST", SYNC, json=asked)
        assert [each["rawText"] for each in answer["observation"]["mediaContents"]] == ["hello"]


async def test_a_direct_run_whose_result_cannot_be_kept_is_not_answered_as_if_it_were(
    tmp_path: Path,
) -> None:
    async def work(log: EventLog) -> Found:
        return Found(b'{"mediaContents": 5}')

    store = SqliteStore(tmp_path / "executions.db")
    async with opened(store), runner_on(store) as runner:
        claim = await begun(store, holder="it")
        with pytest.raises(RequestRejected, match="mediaContents is not a list"):
            await runner.direct(claim, work)
        assert await status(store) is Status.FAILED


class Unsure(SqliteStore):
    """A store whose first answer to the end of a run gets lost."""

    lost = 0

    async def finish(self, claim: Claim, first: int, ending: Ending, *, events_max: int) -> None:
        await super().finish(claim, first, ending, events_max=events_max)
        self.lost += 1
        raise StoreFailed("no answer")


async def test_a_run_whose_end_was_written_without_an_answer_has_ended_well(
    tmp_path: Path,
) -> None:
    store = Unsure(tmp_path / "executions.db")

    async def work(log: EventLog) -> Found:
        log.add(b'{"type": "any"}')
        return Found(b'{"mediaContents": []}')

    async with opened(store), runner_on(store) as runner:
        await runner.direct(await begun(store, holder="it"), work)
        assert await status(store) is Status.COMPLETED
        claim = await begun(store, "run-2", holder="it")
        await store.delete(KEY)
        with pytest.raises(RequestRejected, match="there is no execution"):
            await runner.direct(claim, work)
    assert store.lost == 1


class Away(SqliteStore):
    """A store that cannot be asked for files."""

    async def has_media(self, key: Key) -> bool:
        raise StoreFailed("no answer")


async def test_a_direct_call_does_not_wait_for_a_store_that_does_not_answer(
    tmp_path: Path,
) -> None:
    store = Away(tmp_path / "executions.db")
    async with opened(store), runner_on(store) as runner, patience():
        with pytest.raises(StoreFailed):
            await runner.prepared(Request("talk", "request-1"), KEY)


# What should not fail


class Faulty(SqliteStore):
    """A store that fails as none should, so many times."""

    writes = reads = 0

    async def write(self, claim: Claim, first: int, events: Sequence[bytes], **rest: Any) -> None:
        if self.writes:
            self.writes -= 1
            raise ZeroDivisionError
        await super().write(claim, first, events, **rest)

    async def events(self, key: Key, after: EventId, *, limit: int = 1000) -> Page | None:
        if self.reads and after > BEGINNING:
            self.reads -= 1
            raise ZeroDivisionError
        return await super().events(key, after, limit=limit)


async def test_a_run_whose_log_cannot_be_written_ends_all_the_same(tmp_path: Path) -> None:
    store = Faulty(tmp_path / "executions.db")
    store.writes = 1

    async def work(log: EventLog) -> Found:
        for _ in range(50):
            log.add(b'"' + b"x" * 100_000 + b'"')
            if log.full:
                await log.room()
        return Found(b"{}")

    async with opened(store), runner_on(store) as runner, patience():
        await runner.direct(await begun(store, holder="it"), work)
        assert await status(store) is Status.COMPLETED
        [last] = await texts(store)  # nobody is to read a log with a hole in it
        assert json.loads(last)["status"] == "COMPLETED"


async def test_who_watches_gets_all_events_although_reading_them_failed_once(
    tmp_path: Path,
) -> None:
    store = Faulty(tmp_path / "executions.db")
    async with opened(store):
        claim = await begun(store)
        await wrote(store, claim, 1, b"1")
        count = 0
        async with patience():
            async for pieces in Feeds(store).watch(KEY, BEGINNING):
                count += sum(piece.count for piece in pieces)
                if count == 1:
                    store.reads = 1
                    await wrote(store, claim, 2, b"2")
                elif count == 2:
                    await finished(store, claim, 3)
        assert store.reads == 0
        assert count == 2


async def test_who_watches_and_falls_behind_what_is_kept_is_told_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "executions.db")
    async with opened(store):
        claim = await begun(store)
        await wrote(store, claim, 1, b"1")
        seen: list[EventId] = []

        async def watch() -> None:
            async for pieces in Feeds(store).watch(KEY, BEGINNING):
                seen.extend(piece.last for piece in pieces)
                if len(seen) == 1:
                    await store.write(claim, 2, [b"x"] * 30, events_max=10)

        with pytest.raises(RequestRejected) as refused:
            await asyncio.wait_for(watch(), PATIENCE_S)
        assert refused.value.code is Code.GONE
        assert seen == [EventId(1, 1)]
