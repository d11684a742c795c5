"""What configurations share is made once and closed after its last holder."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway import kept
from gateway.kept import Kept

#: Nobody waits, and nothing comes late.
pytestmark = pytest.mark.own_time


class Thing:
    """Something that is closed, fails to, or takes forever."""

    def __init__(self, name: str, ending: Exception | float | None = None) -> None:
        self.name = name
        self.ending = ending
        self.closed = False

    def __str__(self) -> str:
        return self.name

    async def close(self) -> None:
        self.closed = True
        if isinstance(self.ending, Exception):
            raise self.ending
        if self.ending is not None:
            await asyncio.sleep(self.ending)


async def take(held: Kept[Thing], name: str, ending: Exception | float | None = None) -> Thing:
    async def make() -> Thing:
        return Thing(name, ending)

    return await held.take(name, make)


async def test_the_last_holder_closes_it_and_the_next_gets_another() -> None:
    held = Kept[Thing](Thing.close)
    first, second = await take(held, "a"), await take(held, "a")
    assert first is second
    await held.give_back("a")
    assert not first.closed
    assert held.things() == [first]
    await held.give_back("a")
    assert first.closed
    assert held.things() == []
    assert await take(held, "a") is not first


async def test_what_could_not_be_made_is_not_held() -> None:
    held = Kept[Thing](Thing.close)

    async def fail() -> Thing:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await held.take("a", fail)
    assert held.things() == []


async def test_what_fails_to_close_or_takes_too_long_is_told_and_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "CLOSE_S", 0.05)
    caplog.set_level(logging.WARNING, logger="gateway")
    held = Kept[Thing](Thing.close)
    await take(held, "broken", ValueError("no"))
    await take(held, "slow", 60.0)
    await held.give_back("broken")
    await held.give_back("slow")
    assert [(record.message, vars(record)["fields"]["what"]) for record in caplog.records] == [
        ("closing failed", "broken"),
        ("not closed in time", "slow"),
    ]
