"""The store in a SQLite file where something goes wrong: locks, full disks, kills, wrong files."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import Code, RequestRejected, StoreFailed
from gateway.executions.records import Key, Status
from gateway.executions.sqlite import SqliteStore
from gateway.executions.store import Store, Superseded
from gateway.model import Media
from tests.support.sandboxes import GAP_S_MAX, Watch
from tests.support.store_process import process, said
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
from tests.support.timing import every_time, patience, until

MARK = b"never to be found again "
LARGE = Media("large", bytes(range(256)) * (32 * 4096), "application/pdf")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "executions.db"


@asynccontextmanager
async def opened(path: Path, busy_s: float = 3.0) -> AsyncIterator[Store]:
    store = SqliteStore(path, busy_s=busy_s)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    async with opened(path) as handle:
        yield handle


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Another process keeps all others from writing."""
    async with process("lock", path) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert await other.stdout.readline() == b"locked\n"
        yield
        other.stdin.write(b"\n")
        assert await other.stdout.readline() == b"unlocked\n"


def in_files(path: Path, mark: bytes) -> bool:
    """Whether the database's files hold ``mark`` anywhere."""
    return any(mark in file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


# What must not be found any more


async def test_what_a_run_was_given_is_gone_from_the_files_after_its_end(
    store: Store, path: Path
) -> None:
    media = Media("m-1", MARK * 100_000, "image/png")
    await submitted(store, payload=MARK * 3000, media=[media])
    assert in_files(path, MARK)
    await finished(store, await claimed(store), end=ending(observation=b'{"kept":1}'))
    await until(lambda: not in_files(path, MARK), every_s=0.1)
    assert in_files(path, b'{"kept":1}')


async def test_what_is_removed_is_gone_from_the_files(store: Store, path: Path) -> None:
    await submitted(store, payload=MARK)
    await store.add_media(KEY, Media("m-1", MARK * 500_000, "image/png"), media_max=9)
    await store.merge(KEY, b'{"text":"%s"}' % MARK, replace=False)
    claim = await claimed(store)
    await wrote(store, claim, 1, MARK)
    assert in_files(path, MARK)
    await store.delete(KEY)
    await until(lambda: not in_files(path, MARK), every_s=0.1)


async def test_what_a_transient_execution_found_is_gone_from_the_files(
    store: Store, path: Path
) -> None:
    await submitted(store, transient=True)
    end = ending(observation=b'{"text":"%s"}' % (MARK * 1000))
    await finished(store, await claimed(store), end=end)
    await until(lambda: not in_files(path, MARK), every_s=0.1)


async def test_what_is_removed_is_gone_although_the_writing_never_rests(
    store: Store, path: Path
) -> None:
    await submitted(store, payload=MARK * 3000)
    assert in_files(path, MARK)
    await finished(store, await claimed(store))

    async def write_on() -> None:
        while True:
            await store.beat("holder")
            await asyncio.sleep(0.1)

    writing = asyncio.create_task(write_on())
    await until(lambda: not in_files(path, MARK), every_s=0.1)
    writing.cancel()


async def test_the_file_is_for_its_owner_alone(store: Store, path: Path) -> None:
    await store.create(new())
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob(f"{path.name}*")}
    assert modes == {0o600}


# Locks, and time


async def test_a_locked_database_is_said_to_be_and_used_again_when_it_is_free(path: Path) -> None:
    async with opened(path, busy_s=0.2) as store:
        await store.create(new())
        async with locked(path):
            async with patience():
                with pytest.raises(StoreFailed) as caught:
                    await submitted(store)
            assert (caught.value.code, caught.value.retry_after_s) == (Code.STORE_UNAVAILABLE, 1)
            assert await status(store) is None
        await submitted(store)
        await finished(store, await claimed(store))
        assert await status(store) is Status.COMPLETED


async def test_a_short_lock_is_waited_for(store: Store, path: Path) -> None:
    async with locked(path):
        creating = asyncio.create_task(store.create(new()))
        await asyncio.sleep(0.3)
        assert not creating.done()
    async with patience():
        assert await creating


async def test_a_claim_that_meets_a_lock_says_so_and_takes_nothing(path: Path) -> None:
    async with opened(path, busy_s=0.1) as store:
        await submitted(store)
        async with locked(path):
            with pytest.raises(StoreFailed):
                await store.claim("holder", wait_s=600)
        assert (await claimed(store)).attempt == 1


async def test_a_claim_that_waits_outlasts_a_lock(path: Path) -> None:
    async with opened(path, busy_s=0.1) as store:
        claiming = asyncio.create_task(store.claim("holder", wait_s=600))
        async with locked(path):
            await asyncio.sleep(0.5)
        await submitted(store)
        async with patience():
            assert await claiming is not None


@every_time
async def test_a_lock_does_not_hold_up_the_loop(path: Path) -> None:
    async with opened(path, busy_s=1.0) as store, locked(path), Watch() as watch:
        created = [store.create(new(Key("tenant", f"e{number}"))) for number in range(100)]
        results = await asyncio.gather(*created, return_exceptions=True)
        assert all(isinstance(result, StoreFailed) for result in results)
    assert watch.gap_s < GAP_S_MAX


@every_time
async def test_large_media_do_not_hold_up_the_loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    async with opened(path) as store:
        await store.create(new())
        async with Watch() as watch:
            for number in range(3):
                media = Media(f"m-{number}", LARGE.data, LARGE.content_type)
                await store.add_media(KEY, media, media_max=9)
            await store.submit(KEY, "run", b"", [LARGE], queued_at=NOON, runs_max=9)
            claim = await claimed(store)
            found = await store.media(KEY, "m-1")
            await finished(store, claim)
            await store.delete(KEY)
        assert found is not None
        assert found.data == LARGE.data
        assert claim.media == (LARGE,)
    assert watch.gap_s < GAP_S_MAX


@every_time
async def test_large_observations_do_not_hold_up_the_loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    text = b'{"mediaId":"%s"}' % (b"x" * 8_000_000)
    async with opened(path) as store:
        async with Watch() as watch:
            for run_id in ("run-1", "run-2"):
                claim = await begun(store, run_id)
                end = ending(observation=b'{"mediaContents":[%s]}' % text)
                await finished(store, claim, end=end)
            found = await store.observation(KEY)
        assert found == b'{"mediaContents":[%s]}' % b",".join([text, text])
    assert watch.gap_s < GAP_S_MAX


async def test_what_is_small_is_written_before_what_is_large(store: Store) -> None:
    await store.create(new())
    done: list[str] = []

    async def add(number: int) -> None:
        media = Media(f"m-{number}", LARGE.data, LARGE.content_type)
        await store.add_media(KEY, media, media_max=9)
        done.append("large")

    adding = [asyncio.create_task(add(number)) for number in range(4)]
    await asyncio.sleep(0)
    await store.create(new(Key("tenant", "small")))
    done.append("small")
    await asyncio.gather(*adding)
    assert done.index("small") <= 1


# Where nothing can be written


async def test_no_more_room_is_said_and_what_is_there_stays(path: Path) -> None:
    # A limit on the size of files does to each write what a quota does, and needs no privileges.
    async with process("limited", path) as limited:
        lines = await said(limited)
    assert lines[0].startswith("store_full ")
    assert lines[1:] == ["small True", "there True", "kept True"]


async def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o500)
    async with process("unprivileged", folder / "executions.db") as other:
        [line] = await said(other)
    assert line.startswith("store_unavailable ")
    assert str(folder / "executions.db") in line
    with pytest.raises(StoreFailed, match="no-such"):
        await SqliteStore(tmp_path / "no-such" / "executions.db").open()


async def test_a_file_that_is_no_database_is_named_and_left_alone(path: Path) -> None:
    path.write_bytes(b"a letter to somebody" * 500)
    with pytest.raises(StoreFailed, match=f"{path}: this is no database"):
        await SqliteStore(path).open()
    assert path.read_bytes() == b"a letter to somebody" * 500


async def test_a_damaged_database_is_named(path: Path) -> None:
    async with opened(path) as store:
        await submitted(store)
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\x5a" * (len(whole) - 4096))
    with pytest.raises(StoreFailed, match=f"{path}: the database is damaged"):
        await SqliteStore(path).open()


async def test_what_is_damaged_while_it_is_used_is_said_to_be(path: Path) -> None:
    async with opened(path) as store:
        await submitted(store, payload=b"p" * 100_000)
    with sqlite3.connect(path) as connection:
        [page] = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'executions_by_key'"
        ).fetchone()
        connection.execute("PRAGMA journal_mode = DELETE")
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\x5a" * 4096)
    async with opened(path) as store:
        for asked in (store.get(KEY), store.create(new())):
            with pytest.raises(StoreFailed, match="damaged"):
                await asked


async def test_the_database_of_another_program_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE accounts (name TEXT)")
    with pytest.raises(StoreFailed, match="another program"):
        await SqliteStore(path).open()
    with sqlite3.connect(path) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("accounts",)]


async def test_a_file_of_a_later_version_is_left_alone(path: Path) -> None:
    async with opened(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 1000")
    with pytest.raises(StoreFailed, match="later version"):
        await SqliteStore(path).open()


async def test_a_store_that_could_not_be_opened_can_be_opened_later(path: Path) -> None:
    path.write_bytes(b"no database" * 100)
    store = SqliteStore(path)
    with pytest.raises(StoreFailed):
        await store.open()
    path.unlink()
    await store.open()
    assert await store.create(new())
    await store.close()
    with pytest.raises(StoreFailed, match="closed"):
        await store.get(KEY)


# Faults among others


async def test_a_call_that_fails_half_way_is_as_if_it_had_not_been_made(store: Store) -> None:
    async def fail() -> bool:
        return await store.submit(KEY, "\ud800", b"", (), queued_at=NOON, new=new(), runs_max=1000)

    keys = [Key("tenant", f"e{number}") for number in range(20)]
    results = await asyncio.gather(
        *(submitted(store, "run", key) for key in keys[:10]),
        fail(),
        *(submitted(store, "run", key) for key in keys[10:]),
        return_exceptions=True,
    )
    assert isinstance(results.pop(10), UnicodeEncodeError)
    assert results == [None] * 20
    assert await store.get(KEY) is None
    assert (await store.counts())[Status.QUEUED] == 20


async def test_calls_that_are_refused_spoil_nothing_for_others(store: Store) -> None:
    claim = await begun(store)
    await store.merge(KEY, b'{"mediaContents":[]}', replace=False)
    await finished(store, claim)
    refused, late, made = await asyncio.gather(
        store.merge(KEY, b"1", replace=False),
        store.release(claim),
        store.create(new(Key("tenant", "other"))),
        return_exceptions=True,
    )
    assert isinstance(refused, RequestRejected)
    assert isinstance(late, Superseded)
    assert made is True


async def test_half_surrogates_in_texts_are_replaced(store: Store, path: Path) -> None:
    await store.create(new(tag="a\ud800b"))
    assert [one.tag for one in await store.listed("tenant", tag="a\ud800b")] == ["a?b"]


async def test_what_nobody_waits_for_any_more_is_given_back(store: Store) -> None:
    for number in range(20):
        await store.add_deliveries([delivery(f"message-{number}")])
        await begun(store, f"run-{number}", holder="dead")
        asked = [
            asyncio.create_task(store.due("gone", NOON, limit=9)),
            asyncio.create_task(store.take_over("dead", 0, "gone", attempts_max=9)),
            asyncio.create_task(store.begin(KEY, "another", "gone", queued_at=NOON)),
        ]
        await asyncio.sleep(0.0002 * (number % 10))
        for task in asked:
            task.cancel()
        found = await asyncio.gather(*asked, return_exceptions=True)
        if not isinstance(found[0], BaseException):
            await store.put_off(delivery(f"message-{number}"))
        async with patience():
            while not await store.due("living", NOON, limit=9):
                await asyncio.sleep(0.01)
        await store.leave("gone")
        if isinstance(found[1], BaseException):
            async with patience():
                while await store.take_over("dead", 0, "living", attempts_max=9) is None:
                    await asyncio.sleep(0.01)
        await store.delete(KEY)


# Several processes, and the end of one


async def test_no_run_is_run_twice_by_two_processes(store: Store, path: Path) -> None:
    for number in range(200):
        await submitted(store, f"run-{number}", Key("tenant", f"e{number % 20}"))
    async with process("claims", path, "one") as one, process("claims", path, "two") as two:
        lines = await asyncio.gather(said(one), said(two))
    assert sorted(lines[0] + lines[1]) == sorted(
        f"e{number % 20} run-{number}" for number in range(200)
    )
    assert all(lines)
    for number in range(20):
        in_order = [b"run-%d" % run for run in range(number, 200, 20)]
        assert await texts(store, Key("tenant", f"e{number}")) == in_order


@pytest.mark.parametrize("after", [50, 400, 1500])
async def test_nothing_acknowledged_is_lost_when_a_process_is_killed(
    path: Path, after: int
) -> None:
    lines: list[str] = []
    async with process("work", path, "one") as one, process("work", path, "two") as two:
        for other in (one, two):
            assert other.stdout is not None
            lines += [(await other.stdout.readline()).decode() for _ in range(after)]
        one.kill()
        two.kill()
        for other in (one, two):
            lines += await said(other)
    acknowledged = [line.split() for line in lines]
    done = Counter(name for word, name in acknowledged if word == "finished")
    asked = {name for word, name in acknowledged if word == "submitted"}
    assert asked
    assert set(done.values()) <= {1}
    async with opened(path) as store:
        for name in asked:
            execution = await store.get(Key("tenant", name))
            assert execution is not None, name
        for holder, beats in (await store.beat("living")).holders.items():
            if holder != "living":
                assert await store.take_over(holder, beats, "living", attempts_max=9) == ()
        while (claim := await store.claim("living", wait_s=0)) is not None:
            assert claim.key.id not in done
            assert len(claim.payload) == 5000
            observation = b'{"mediaContents":[{"mediaId":"%s"}]}' % claim.key.id.encode()
            await finished(store, claim, end=ending(observation=observation))
        for name in asked | done.keys():
            assert await status(store, Key("tenant", name)) is Status.COMPLETED
            observation = await store.observation(Key("tenant", name)) or b""
            assert observation.count(name.encode()) == 1
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
