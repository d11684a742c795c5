"""Actors side by side: their events as one sequence, as they come.

Owns: the tasks of a layer's actors, the queue between them and whoever sends their events on, and
the certainty that however that ends, every actor's work ends with it.
Does not know: what an actor does, what its events mean, what becomes of a layer in which one fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from gateway.errors import GatewayError
from gateway.model import Event
from gateway.tasks import all_done

#: Events of one actor that may wait to be sent on. So a client that reads slowly holds back all
#: actors, and an actor that always has more does not keep the others from their turn.
_AHEAD_MAX: Final = 8

Opener = Callable[[], AsyncGenerator[Event]]


@dataclass(slots=True)
class Waited:
    """Seconds that a request has spent waiting for others: the gateway's own time is the rest."""

    upstream_s: float = 0.0
    client_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """An actor is done; ``error`` says why it failed."""

    error: GatewayError | None


Item = tuple[int, Event | Ended]


def side_by_side(
    actors: Sequence[Opener], waited: Waited, clock: Callable[[], float]
) -> AsyncGenerator[Item]:
    """The events of all ``actors``, each with its actor's index, and an ``Ended`` after its last.

    In order within an actor, otherwise as they come. Closing this closes every actor's events, and
    waits until they are.
    """
    if len(actors) == 1:
        return _alone(actors[0], waited, clock)
    return _merged(actors, waited, clock)


async def _alone(actor: Opener, waited: Waited, clock: Callable[[], float]) -> AsyncGenerator[Item]:
    """One actor needs no task and no queue."""
    error: GatewayError | None = None
    async with aclosing(actor()) as events:
        while True:
            asked = clock()
            try:
                event = await anext(events)
            except StopAsyncIteration:
                break
            except GatewayError as failure:
                error = failure
                break
            finally:
                waited.upstream_s += clock() - asked
            yield 0, event
    yield 0, Ended(error)


async def _merged(
    actors: Sequence[Opener], waited: Waited, clock: Callable[[], float]
) -> AsyncGenerator[Item]:
    queue: asyncio.Queue[Item | Exception] = asyncio.Queue()  # bounded by the rooms
    rooms = [asyncio.Semaphore(_AHEAD_MAX) for _ in actors]
    tasks = [
        asyncio.create_task(_run(index, actor, rooms[index], queue))
        for index, actor in enumerate(actors)
    ]
    running = len(tasks)
    try:
        while running:
            asked = clock()
            try:
                item = await queue.get()
            finally:
                waited.upstream_s += clock() - asked
            if isinstance(item, Exception):
                raise item
            rooms[item[0]].release()
            running -= isinstance(item[1], Ended)
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await all_done(tasks)


async def _run(
    index: int, actor: Opener, room: asyncio.Semaphore, queue: asyncio.Queue[Item | Exception]
) -> None:
    """One of several actors. A fault of the gateway's own is raised by whoever reads the queue."""
    end: Item | Exception = (index, Ended(None))
    try:
        async with aclosing(actor()) as events:
            async for event in events:
                await room.acquire()
                queue.put_nowait((index, event))
    except GatewayError as error:
        end = (index, Ended(error))
    except Exception as fault:  # noqa: BLE001  handed over, not swallowed
        end = fault
    queue.put_nowait(end)
