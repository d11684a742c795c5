"""What must be watched so that no change of a file goes unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.config import load
from gateway.watching import Watch, entries_of, fingerprint, has_changed
from gateway.yamltext import Files
from tests.support.timing import promised

CONFIG = """
upstreams:
  u: {kind: pupau, url: "http://u", api_key: {file: key}}
pipelines:
  chat: {upstream: u, transform: {event: {file: own.jsonata}}}
"""


def noted(*paths: Path) -> Files:
    return {path: sha256(path.read_bytes()).digest() if path.exists() else b"" for path in paths}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def test_the_entry_of_a_plain_file_is_the_file(folder: Path) -> None:
    (folder / "a").write_text("")
    assert entries_of([folder / "a"]) == {folder / "a"}
    assert entries_of([folder / "b" / ".." / "a"]) == {folder / "b"}
    (folder / "b").mkdir()
    assert entries_of([folder / "b" / ".." / "a"]) == {folder / "a"}


def test_every_link_on_the_way_is_an_entry(folder: Path) -> None:
    (folder / "..2026").mkdir()
    (folder / "..2026" / "gateway.yaml").write_text("")
    (folder / "..data").symlink_to("..2026")
    (folder / "gateway.yaml").symlink_to("..data/gateway.yaml")
    (folder / "away").symlink_to(folder / "gateway.yaml")
    assert entries_of([folder / "away"]) == {
        folder / "away",
        folder / "gateway.yaml",
        folder / "..data",
        folder / "..2026" / "gateway.yaml",
    }


def test_of_what_is_not_there_the_first_missing_part_is_the_entry(folder: Path) -> None:
    assert entries_of([folder / "transforms" / "x" / "a.jsonata"]) == {folder / "transforms"}
    (folder / "dangling").symlink_to("nowhere/file")
    assert entries_of([folder / "dangling"]) == {folder / "dangling", folder / "nowhere"}


def test_links_in_a_circle_come_to_an_end(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    assert entries_of([folder / "a"]) == {folder / "a", folder / "b"}


def test_a_file_has_changed_when_its_bytes_have(folder: Path) -> None:
    path, missing = folder / "a", folder / "b"
    path.write_text("one")
    files = noted(path, missing)
    assert not has_changed(files)
    path.write_text("two")
    assert has_changed(files)
    path.write_text("one")
    assert not has_changed(files)
    missing.write_text("")
    assert has_changed(files)
    missing.unlink()
    path.unlink()
    assert has_changed(files)


def test_a_fingerprint_is_that_of_the_bytes_wherever_they_lie(folder: Path) -> None:
    prints = []
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (folder / name).write_text(text)
        prints.append(fingerprint(noted(folder / name, folder / "missing")))
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 64


def test_loading_notes_every_file_that_was_read_or_looked_for(folder: Path) -> None:
    path = folder / "config" / "gateway.yaml"
    path.parent.mkdir()
    path.write_text(CONFIG)
    (path.parent / "key").write_text("secret\n")
    (path.parent / "transforms").mkdir()
    (path.parent / "transforms" / "own.jsonata").write_text("$")
    files: Files = {}
    load(path, {}, files=files)
    read = (path, path.parent / "key", path.parent / "transforms" / "own.jsonata")
    # A file of that name in this folder would be taken instead.
    assert files == noted(*read, folder / "transforms" / "own.jsonata")
    assert not has_changed(files)


@asynccontextmanager
async def watching(files: Files) -> AsyncIterator[tuple[Watch, Callable[[], asyncio.Future[None]]]]:
    """A watch that has begun, and a function that gives a future of its next news."""
    news = asyncio.Event()

    async def next_news() -> None:
        async with promised(4):  # less than LOOK_S: it is told, and need not look by itself
            await news.wait()
        news.clear()

    watch = Watch(files, news.set)
    await asyncio.sleep(0.3)
    try:
        yield watch, lambda: asyncio.ensure_future(next_news())
    finally:
        await watch.close()


async def test_a_watch_tells_of_a_write_a_move_and_a_turned_link(folder: Path) -> None:
    for version in ("v1", "v2"):
        (folder / version).mkdir()
        (folder / version / "a").write_text(version)
    (folder / "current").symlink_to("v1")
    path = folder / "current" / "a"
    async with watching(noted(path)) as (watch, news):
        path.write_text("written")
        await news()
        watch.follow(noted(path))
        (folder / "v1" / "new").write_text("moved")
        (folder / "v1" / "new").rename(folder / "v1" / "a")
        await news()
        watch.follow(noted(path))
        (folder / "next").symlink_to("v2")
        (folder / "next").rename(folder / "current")
        await news()
        watch.follow(noted(path))
        await asyncio.sleep(0.3)
        path.write_text("in the new folder")
        await news()


async def test_a_watch_tells_of_a_file_that_comes_to_be_in_a_new_folder(folder: Path) -> None:
    path = folder / "transforms" / "a.jsonata"
    async with watching(noted(path)) as (_, news):
        path.parent.mkdir()
        path.write_text("$")
        await news()


async def test_what_leaves_the_bytes_as_they_were_is_no_news(folder: Path) -> None:
    path = folder / "a"
    path.write_text("one")
    async with watching(noted(path)) as (_, news):
        path.touch()
        (folder / "same").write_text("one")
        (folder / "same").rename(path)
        (folder / "beside").write_text("two")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await news()
