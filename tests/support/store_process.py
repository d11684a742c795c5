"""A store in a SQLite file as another process uses it: ``python -m tests.support.store_process``.

Owns: the processes, and what each of them does; each says in lines what was acknowledged.
Does not know: what should come of it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.errors import StoreFailed
from gateway.executions.records import Key
from gateway.executions.sqlite import SqliteStore
from gateway.model import Media
from tests.support.serving import ROOT
from tests.support.stores import claimed, ending, finished, new, submitted, wrote

_CLIENTS = 8
_UNPRIVILEGED = 65534


@asynccontextmanager
async def process(role: str, path: Path, *arguments: str) -> AsyncIterator[Process]:
    """A process in a role; it is gone when the context is left."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.store_process", role, str(path), *arguments),
        stdin=PIPE,
        stdout=PIPE,
        cwd=ROOT,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def said(started: Process) -> list[str]:
    """What a process says until it ends."""
    out, _ = await started.communicate()
    return out.decode().splitlines()


def _say(*words: str) -> None:
    os.write(1, (" ".join(words) + "\n").encode())  # at once, and whole


async def work(path: Path, name: str) -> None:
    """Submit and run, without an end."""
    store = SqliteStore(path)
    await store.open()

    async def client(number: int) -> None:
        count = 0
        while True:
            count += 1
            key = Key("tenant", f"{name}-{number}-{count}")
            await submitted(store, "run", key, payload=b"p" * 5000)
            _say("submitted", key.id)
            claim = await claimed(store, name, wait_s=60)
            await wrote(store, claim, 1, b"begun")
            observation = b'{"mediaContents":[{"mediaId":"%s"}]}' % claim.key.id.encode()
            await finished(store, claim, 2, ending(observation=observation))
            _say("finished", claim.key.id)

    await asyncio.gather(*(client(number) for number in range(_CLIENTS)))


async def claims(path: Path, holder: str) -> None:
    """Claim and run what there is, until there is nothing for a second."""
    store = SqliteStore(path)
    await store.open()
    while (claim := await store.claim(holder, wait_s=1)) is not None:
        _say(claim.key.id, claim.run_id)
        await wrote(store, claim, 1, claim.run_id.encode())
        await finished(store, claim, 2)
    await store.close()


async def lock(path: Path, *_: str) -> None:
    """Keep all others from writing until a line comes."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    _say("locked")
    sys.stdin.readline()
    connection.execute("ROLLBACK")
    _say("unlocked")


async def limited(path: Path, *_: str) -> None:
    """Write while files may not grow, as on a full disk, and then once more."""
    store = SqliteStore(path)
    await store.open()
    await store.create(new(Key("tenant", "before")))
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * 1024, most))
    large = Media("large", os.urandom(4 * 1024 * 1024), "image/png")
    full, small = await asyncio.gather(
        store.add_media(Key("tenant", "before"), large, media_max=9),
        store.create(new(Key("tenant", "small"))),
        return_exceptions=True,
    )
    _say(*((full.code, full.message) if isinstance(full, StoreFailed) else (str(full),)))
    _say("small", str(small))
    _say("there", str(await store.get(Key("tenant", "before")) is not None))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    await store.add_media(Key("tenant", "before"), large, media_max=9)
    _say("kept", str(await store.all_media(Key("tenant", "before")) == (large,)))
    await store.close()


async def unprivileged(path: Path, *_: str) -> None:
    """Open, as somebody who may do nothing in the folder."""
    if os.geteuid() == 0:
        os.setuid(_UNPRIVILEGED)
    try:
        await SqliteStore(path).open()
    except StoreFailed as error:
        _say(error.code, error.message)


if __name__ == "__main__":
    _roles: dict[str, Callable[..., Coroutine[None, None, None]]] = {
        each.__name__: each for each in (work, claims, lock, limited, unprivileged)
    }
    asyncio.run(_roles[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:]))
