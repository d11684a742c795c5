"""One configuration for all workers.

A new one is given to every worker that serves. Each makes it ready beside the one that is live, and
says so or says what is wrong with it. Only when all have it ready they are told to take it, which
is a swap that cannot fail; where one finds fault, or two are lost over it, nobody takes it. So
workers differ for no longer than a message takes to be read. One that has begun to serve meanwhile
is given what it lacks, and one that cannot make ready what is live already is ended, for another to
start with that.

Owns: who has been given what, and when it is taken.
Does not know: how a configuration is read, or what a worker makes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from gateway import logs
from gateway.errors import ConfigError
from gateway.link import Drop, Given, Message, Prepared, Take, Taken

#: How long workers may take to make a configuration ready, and to take it, seconds.
READY_S: Final = 60.0
TAKEN_S: Final = 5.0
#: So many that end over a configuration end because of it.
_LOST_MAX: Final = 1


class Member(Protocol):
    """A worker, as far as this is concerned with it; ``place`` counts from 0."""

    place: int

    def send(self, message: Message) -> None:
        """Send it, without waiting."""

    def kill(self) -> None:
        """End the process at once."""

    def log(self, event: str, **fields: object) -> None:
        """Say of it what ``event`` and ``fields`` do."""


class Agreement:
    """``live`` is what workers start with."""

    def __init__(self, config: bytes, its_hash: str, files: tuple[str, ...] = ()) -> None:
        self.live = Given(1, config, its_hash, files)
        self._number = 1
        self._members: set[Member] = set()
        self._proposed: Given | None = None
        self._ready: set[Member] = set()
        self._taken: set[Member] = set()
        self._lost = 0
        self._problems: list[str] = []
        self._news = asyncio.Event()

    def joined(self, worker: Member, number: int) -> None:
        """A worker serves by the configuration ``number``."""
        self._members.add(worker)
        if number == self.live.number:
            self._taken.add(worker)
        else:
            worker.send(self.live)
            worker.send(Take(self.live.number))
        if self._proposed is not None:
            worker.send(self._proposed)

    def left(self, worker: Member) -> None:
        """A worker has ended."""
        if worker in self._members:
            self._members.discard(worker)
            self._ready.discard(worker)
            self._lost += 1
            self._news.set()

    def heard(self, worker: Member, told: Prepared | Taken) -> None:
        """Take in what a worker said of a configuration."""
        if isinstance(told, Taken):
            if told.number == self._number:
                self._taken.add(worker)
        elif self._proposed is not None and told.number == self._proposed.number:
            self._ready.add(worker)
            self._problems = self._problems or told.problems
        elif told.number == self.live.number and told.problems:
            worker.log("a worker that cannot load what is live is ended", problems=told.problems)
            worker.kill()
        self._news.set()

    async def reach(self, config: bytes, its_hash: str, files: tuple[str, ...] = ()) -> None:
        """Let ``config`` be live in all workers. Raises ConfigError where it is in none."""
        self._number += 1
        proposed = self._proposed = Given(self._number, config, its_hash, files)
        self._ready, self._taken, self._lost, self._problems = set(), set(), 0, []
        self._tell(proposed)
        try:
            await self._made_ready()
        except BaseException:
            self._tell(Drop(proposed.number))
            raise
        finally:
            self._proposed = None
        self.live = proposed
        self._tell(Take(proposed.number))
        try:
            async with asyncio.timeout(TAKEN_S):
                await self._until(lambda: self._taken >= self._members)
        except TimeoutError:
            late = sorted(each.place + 1 for each in self._members - self._taken)
            fields = {"workers": late, "s": TAKEN_S}
            logs.events.warning(
                "workers are late to take a configuration", extra={"fields": fields}
            )

    async def _made_ready(self) -> None:
        """Wait until every worker has it ready. Raises ConfigError where one never will."""
        try:
            async with asyncio.timeout(READY_S):
                await self._until(lambda: self._hopeless or self._ready >= self._members)
        except TimeoutError as error:
            raise ConfigError([f"not every worker loaded it within {READY_S:g} s"]) from error
        if self._problems:
            raise ConfigError(self._problems)
        if self._hopeless or (self._lost and not self._ready):
            raise ConfigError(["workers ended while they loaded it"])

    @property
    def _hopeless(self) -> bool:
        return bool(self._problems) or self._lost > _LOST_MAX

    async def _until(self, met: Callable[[], bool]) -> None:
        while not met():
            self._news.clear()
            await self._news.wait()

    def _tell(self, message: Message) -> None:
        for worker in self._members:
            worker.send(message)
