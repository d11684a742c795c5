"""What the supervisor and a worker tell each other arrives whole, in order, and its end is seen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.config import Config
from gateway.gathered import Change
from gateway.link import (
    Ask,
    Counted,
    Cut,
    Drop,
    Failed,
    FromWorker,
    Given,
    Link,
    Prepared,
    Ready,
    Scraped,
    Stop,
    Take,
    Taken,
    ToWorker,
    Written,
    of_supervisor,
    of_worker,
    packed,
    unpacked,
)
from tests.support.timing import patience

CONFIG = Config.model_validate(
    {
        "upstreams": {"u": {"kind": "pupau", "url": "http://u", "api_key": "s3cret"}},
        "pipelines": {
            "p": {"upstream": "u", "transform": {"event": {"text": "$", "file": "e.jsonata"}}}
        },
    }
)
DOWN: list[ToWorker] = [
    Given(1, b"\x00" * 300_000, "abc"),
    Take(1),
    Drop(2),
    Ask(3),
    Written(4, b"# text\n", "text/plain"),
    Stop(pre_stop=True),
    Cut(15),
]
UP: list[FromWorker] = [
    Ready(1),
    Failed(["one", "two"], config=True),
    Prepared(2, []),
    Taken(2),
    Counted(None, Change({"a_total": {("x", "-"): (1.0,), (): (2.0, 0.5)}}, {"b": [("y",)]})),
    Counted(7, Change({}, {})),
    Scraped(8, "text/plain; version=1.0.0"),
]


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Link[FromWorker], Link[ToWorker]]]:
    """The supervisor's end, and the worker's."""
    own, its = socket.socketpair()
    supervisor, worker = await of_supervisor(own), await of_worker(its)
    async with patience():
        yield supervisor, worker
    await supervisor.close()
    await worker.close()


async def test_every_message_arrives_as_it_was_sent() -> None:
    async with pair() as (supervisor, worker):
        for down in DOWN:
            supervisor.send(down)
        for up in UP:
            worker.send(up)
        assert [await worker.receive() for _ in DOWN] == DOWN
        assert [await supervisor.receive() for _ in UP] == UP


async def test_the_other_ends_end_is_seen_after_all_that_it_said() -> None:
    async with pair() as (supervisor, worker):
        worker.send(Ready(1))
        await worker.close()
        assert await supervisor.receive() == Ready(1)
        assert await supervisor.receive() is None
        # What is still sent to it goes nowhere, and disturbs nobody.
        for _ in range(10):
            supervisor.send(Given(2, b"\x00" * 300_000, ""))
            await supervisor.sent()
        assert await supervisor.receive() is None


async def test_a_message_that_breaks_off_is_none() -> None:
    own, its = socket.socketpair()
    link = await of_worker(own)
    its.sendall(b"\x00\x00\x01\x00half")
    its.close()
    async with patience():
        assert await link.receive() is None
    await link.close()


async def test_who_sends_more_than_the_other_reads_waits() -> None:
    async with pair() as (supervisor, worker):
        for _ in range(8):
            worker.send(Failed(["x" * 1_000_000], config=False))
        waiting = asyncio.create_task(worker.sent())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        for _ in range(8):
            assert isinstance(await supervisor.receive(), Failed)
        await waiting


def test_a_configuration_is_handed_over_whole_with_its_secrets() -> None:
    again = unpacked(packed(CONFIG))
    assert again == CONFIG
    upstream = again.upstreams["u"]
    assert upstream.kind == "pupau"
    assert upstream.api_key is not None
    assert upstream.api_key.get_secret_value() == "s3cret"


def test_what_is_no_configuration_is_not_taken_for_one() -> None:
    with pytest.raises(TypeError, match="not Secret"):
        unpacked(packed(CONFIG.upstreams["u"].api_key))  # type: ignore[arg-type,union-attr]
