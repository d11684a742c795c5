"""Replicas that are killed at random moments while clients have work done, and what became of it.

Three replicas share a store. Clients have executions queued, some of them cancelled again; an
upstream answers in pieces; webhooks are told, and refuse now and then. All the while one replica
after another is killed (SIGKILL), also one that is just starting, or now and then told to stop
(SIGTERM), and replaced by a new one. What was acknowledged must have come to one end, once.

Where they are frozen, too (SIGSTOP for longer than the lease, then SIGCONT), what they had is run
by others at the same time, and nothing of what they still write of it must count.

Owns: who does what at which moment, by a seed; the counts, and what is wrong with them.
Does not know: which store it is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import SIGCONT, SIGSTOP, SIGTERM

import aiohttp

from tests.support.executions_api import BROKEN, ENDED, Api, Event, Refused, whole
from tests.support.replicas import Behind, Replica, Replicas, behind, replicas, shared, spoken
from tests.support.timing import PATIENCE_S

REPLICAS = 3
CLIENTS = 6
#: Seconds from one kill to the next, from and to.
PAUSE_S = (0.1, 0.7)
#: Seconds for which a replica is frozen, from and to; the lease is 1.
FROZEN_S = (1.2, 2.5)
#: Seconds for one request: it may meet a replica that ends.
REQUEST_S = 20.0
#: Of all executions: how many are cancelled, how many watched from their beginning on. Of all
#: messages: how many are refused at first. Of all replicas: how many are told to stop.
#: Where they are frozen, too: how often it is that.
CANCELLED, WATCHED, REFUSED, STOPPED, FROZEN = 0.05, 0.1, 0.2, 0.15, 0.4


@dataclass(slots=True)
class Asked:
    """One execution that a client had queued. ``seen``: what was told of it to who watched it."""

    name: str
    pieces: int
    acknowledged: bool = False
    cancelled: bool = False
    seen: list[Event] | None = None


@dataclass(slots=True)
class Report:
    """What came of it. ``wrong`` must be empty."""

    seed: int
    kills: int = 0
    stops: int = 0
    freezes: int = 0
    started: int = 0
    acknowledged: int = 0
    unanswered: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    taken_over: int = 0
    begun_again: int = 0
    calls: int = 0
    watched: int = 0
    resumed: int = 0
    messages: int = 0
    delivered: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ended = ", ".join(f"{count} {status}" for status, count in sorted(self.ended.items()))
        lines = [
            f"seed {self.seed}: {self.kills} kills, {self.stops} stops, {self.freezes} freezes, "
            f"{self.started} replicas",
            f"{self.acknowledged} acknowledged ({ended}), {self.unanswered} without an answer",
            f"{self.taken_over} executions taken over, begun again {self.begun_again} times; "
            f"{self.calls} calls of the upstream",
            f"{self.watched} watched, attached again {self.resumed} times",
            f"{self.messages} messages to webhooks, arrived {self.delivered} times, "
            f"{self.refused} refused at first",
            *(f"WRONG {each}" for each in self.wrong[:20]),
        ]
        return "\n".join(lines)


class _Crashes:
    """One run of it."""

    def __init__(
        self,
        api: Api,
        started: Replicas,
        far: Behind,
        *,
        draw: Random,
        seed: int,
        freezes: bool,
    ) -> None:
        self._api = api
        self._replicas = started
        self._behind = far
        self._draw = draw
        self._live: list[Replica] = []
        self._asked: list[Asked] = []
        self._watching: list[asyncio.Task[None]] = []
        self._freezes = freezes
        self._frozen: list[asyncio.Task[None]] = []
        self._hook = ""
        self._over = False
        self.report = Report(seed)

    def _base(self) -> str:
        """One of the replicas that serve, by chance."""
        serving = [each.base for each in self._live if each.look()]
        return self._draw.choice(serving) if serving else "http://127.0.0.1:9"

    async def run(self, kills: int) -> Report:
        """Kill so many replicas, let what is left come to its end, and look at all of it."""
        self._live = await asyncio.gather(*(self._replicas.start() for _ in range(REPLICAS)))
        self._hook = await self._api.hook(self._base(), self._behind.endpoint, "COMPLETED")
        clients = [asyncio.create_task(self._client(number)) for number in range(CLIENTS)]
        for _ in range(kills):
            await asyncio.sleep(self._draw.uniform(*PAUSE_S))
            if self._freezes and self._draw.random() < FROZEN:
                self._frozen.append(asyncio.create_task(self._freeze_one()))
            else:
                await self._end_one()
        self._over = True
        await asyncio.gather(*self._frozen)
        await asyncio.gather(*clients)
        await self._settled()
        await self._look()
        return self.report

    async def _end_one(self) -> None:
        """One of them, more often one that serves; there is always one left that does."""
        serving = [each for each in self._live if each.look()]
        able = self._live if len(serving) > 1 else [x for x in self._live if x not in serving]
        if able:
            victim = self._draw.choice(able)
            self._live.remove(victim)
            if victim.base and self._draw.random() < STOPPED:
                victim.tell(SIGTERM)  # it has its time, while the others go on
                self.report.stops += 1
            else:
                await victim.kill()
                self.report.kills += 1
        self._live.append(await self._replicas.launch())

    async def _freeze_one(self) -> None:
        """One of those that serve, for a while; somebody may kill it meanwhile."""
        victim = self._draw.choice([each for each in self._live if each.look()])
        self.report.freezes += 1
        victim.tell(SIGSTOP)
        await asyncio.sleep(self._draw.uniform(*FROZEN_S))
        with suppress(ProcessLookupError):
            victim.tell(SIGCONT)

    async def _client(self, number: int) -> None:
        count = 0
        while not self._over:
            count += 1
            await self._ask(Asked(f"x-{number}-{count}", self._draw.randint(1, 8)))
            await asyncio.sleep(self._draw.uniform(0.0, 0.2))

    async def _ask(self, asked: Asked) -> None:
        while True:  # making it is the same however often it is asked for
            with suppress(*BROKEN, Refused):
                await self._api.create(self._base(), asked.name, self._hook)
                break
            await asyncio.sleep(0.02)
        self._asked.append(asked)
        if self._draw.random() < WATCHED:  # long enough that its watcher loses a replica, too
            asked.seen = []
            asked.pieces += 15
        try:
            pause_s = self._draw.uniform(0.0, 0.12)
            await self._api.submit(self._base(), asked.name, asked.pieces, pause_s)
        except (*BROKEN, Refused):
            asked.seen = None
            return
        asked.acknowledged = True
        if asked.seen is not None:
            self._watching.append(asyncio.create_task(self._watch(asked.name, asked.seen)))
        if self._draw.random() < CANCELLED:
            await asyncio.sleep(self._draw.uniform(0.0, 0.3))
            asked.cancelled = True
            with suppress(*BROKEN, Refused):
                await self._api.cancel(self._base(), asked.name)

    async def _watch(self, name: str, seen: list[Event]) -> None:
        def somewhere() -> str:
            self.report.resumed += bool(seen)
            return self._base()

        await self._api.follow(somewhere, name, seen)

    async def _settled(self) -> None:
        """Return when nothing is left to be done, or after a long time in which it was not."""

        async def statuses() -> dict[str, str | None]:
            with suppress(*BROKEN, Refused):
                return await self._api.statuses(self._base())
            return {}

        async def done() -> bool:
            found = await statuses()
            told = {each.execution for each in self._behind.told}
            ended = [found.get(each.name) in ENDED for each in self._asked if each.acknowledged]
            completed = {name for name, status in found.items() if status == "COMPLETED"}
            busy = {"QUEUED", "RUNNING"} & set(found.values())
            return bool(found) and all(ended) and not busy and completed <= told

        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while not await done():
                    await asyncio.sleep(0.1)
                await asyncio.gather(*self._watching)
        for task in self._watching:
            task.cancel()

    async def _look(self) -> None:
        report, base = self.report, self._base()
        statuses = await self._api.statuses(base)
        for asked in self._asked:
            await self._judge(asked, statuses.get(asked.name), base)
        report.started = len(self._replicas.started)
        report.delivered = len(self._behind.told)
        report.refused = len(self._behind.refused)
        report.messages = len({each.message_id for each in self._behind.told})
        report.calls = sum(map(len, self._behind.calls.values()))
        if not self._freezes:  # else those who have taken over run it while it is frozen
            report.wrong += [f"{name}: was run twice at once" for name in self._behind.twice]

    async def _judge(self, asked: Asked, status: str | None, base: str) -> None:
        """Note what became of one execution, and everything that is wrong with it."""
        report, name = self.report, asked.name
        if asked.acknowledged:
            report.acknowledged += 1
            report.ended[str(status)] += 1
        else:
            report.unanswered += 1
            if status is None:
                return  # it was never queued, and nobody was told that it was
        events = await self._api.log(base, name)
        if events and self._again(events):
            report.taken_over += 1
            report.begun_again += self._again(events)
        if asked.seen is not None:
            report.watched += 1
        right: dict[str, Callable[[], bool]] = {
            "has no end": lambda: status in ENDED,
            "has not one end": lambda: [x.status for x in events if x.ended] == [status],
            "goes on behind its end": lambda: bool(events) and events[-1].ended,
            "has gaps in its log": lambda: whole(events),
            "failed": lambda: status != "FAILED",
            "was cancelled by nobody": lambda: status != "CANCELLED" or asked.cancelled,
            "was told otherwise to who watched it": lambda: asked.seen in (None, events),
        }
        report.wrong += [f"{name} {what} ({status})" for what, so in right.items() if not so()]
        told = {each.message_id for each in self._behind.told if each.execution == name}
        if len(told) != (status == "COMPLETED"):
            report.wrong.append(f"{name} ({status}): {len(told)} messages of different IDs")
        results = await self._api.results(base, name)
        expected = [spoken(name, asked.pieces)] if status == "COMPLETED" else []
        if results != expected:
            report.wrong.append(f"{name} ({status}): {results} and not {expected}")

    def _again(self, events: list[Event]) -> int:
        return sum(event.said.get("attempt", 1) > 1 for event in events)


async def crashes(
    kind: str, folder: Path, *, kills: int, seed: int, freezes: bool = False
) -> Report:
    """Kill so many replicas, with a store of ``kind`` and all else in ``folder``. The moments are
    drawn by ``seed``. ``freezes``: freeze some of them for a while instead."""
    draw = Random(seed)
    async with (
        shared(kind, folder) as store,
        behind(lambda: draw.random() < REFUSED) as far,
        replicas(folder, store, far, drain_s=0.5) as started,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_S)) as session,
    ):
        made = _Crashes(Api(session), started, far, draw=draw, seed=seed, freezes=freezes)
        return await made.run(kills)
