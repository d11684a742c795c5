"""Which of several upstreams an actor's content is taken from.

Owns: the order in which they are tried and when each is started; that content comes from one of
them alone, and that whatever was begun on the others is closed.
Does not know: what the content is used for, how a call is kept steady (``guard``).
"""

from __future__ import annotations

import asyncio
import random as randomness
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from math import log
from typing import Any, Final

from gateway.errors import (
    Code,
    GatewayError,
    Outcome,
    Overloaded,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.guard import Fate, Guard
from gateway.model import Event, Frames, LayerFinished, is_content
from gateway.pipeline_sections import Policy
from gateway.tasks import all_done

#: Policy hedge waits so many seconds while too little is known of the upstream's latency.
_HEDGE_S: Final = 1.0
#: So many events of a candidate are held back; one that has sent more has something to say.
_HELD_MAX: Final = 64
_HASHES: Final = 2**64


@dataclass(frozen=True, slots=True)
class Candidate:
    """One upstream that content may be taken from.

    ``open`` makes the call and yields its events; it may prepare the call first, and fail at that.
    The ``Fate`` it is given says why it was closed, where it was.
    """

    guard: Guard
    weight: float
    open: Callable[[Fate], AsyncGenerator[Event]]


async def take(
    candidates: Sequence[Candidate],
    policy: Policy,
    *,
    hedge_after_s: float | None,
    sticky: str | None,
    taken: Callable[[int], None],
    random: randomness.Random,
    clock: Callable[[], float],
) -> AsyncGenerator[Event]:
    """The events of the candidate that is the first to yield content, and of no other.

    ``taken`` is called with its index just before its first event is yielded. When this ends or is
    closed, every candidate that was started is closed, and has come to its end.

    Args:
        hedge_after_s: when policy hedge starts the next one, seconds; ``None``: after the p95 of
            the one that was started.
        sticky: what policy weighted keeps together; ``None``: each call is drawn anew.
        clock: the running loop's time, seconds.

    Raises:
        GatewayError: the winner's, once it has yielded content; or what forbids to go on with
            others; or, where all have failed, an error that tells of each.
    """
    order = _order(candidates, policy, sticky, random)
    contest = _Contest(candidates, order, policy, hedge_after_s, clock)
    try:
        winner = await contest.winner()
        taken(winner.index)
        while winner.held:
            yield winner.held.pop(0)
        if not winner.ended:
            async for event in winner.events:
                yield event
            winner.ended = True
    finally:
        await contest.close()


class _Entry:
    """A candidate that was started. ``held``: what it has yielded so far."""

    def __init__(self, index: int, candidate: Candidate) -> None:
        self.index = index
        self.guard = candidate.guard
        self.fate = Fate()
        self.events = candidate.open(self.fate)
        self.held: list[Event] = []
        self.ended = False
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Go as far as the first content, or the end. Raises what says that there is none."""
        async for event in self.events:
            if isinstance(event, Frames) and event.count == 0:
                continue  # a sign of life, which nobody waits for until somebody is chosen
            self.held.append(event)
            if isinstance(event, LayerFinished) and event.last:
                self._check(event)
                return
            if is_content(event) or len(self.held) > _HELD_MAX:
                return
        self.ended = True

    def _check(self, event: LayerFinished) -> None:
        """Raises UpstreamFailed where all that the last layer's actors have to tell is errors."""
        failed = [each for each in event.responses if each.errors and not each.message]
        if failed and len(failed) == len(event.responses):
            self.fate.outcome = Outcome.UPSTREAM_ERROR
            error = failed[0].errors[0]
            raise UpstreamFailed(
                f"upstream {self.guard.name}: actor {failed[0].actor_id} failed: "
                f"{error.message} ({error.name})",
                alive=True,
            )

    async def close(self) -> None:
        """Have the call closed, however far it is."""
        self.task.cancel()
        await asyncio.wait((self.task,))
        # A failure has been told of by now, or concerns nobody any more.
        with suppress(GatewayError, asyncio.CancelledError):
            self.task.result()
        with suppress(GatewayError):
            await self.events.aclose()


class _Contest:
    """The candidates on their way to the first content."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        order: Iterable[int],
        policy: Policy,
        hedge_after_s: float | None,
        clock: Callable[[], float],
    ) -> None:
        self._candidates = candidates
        self._left = list(order)
        self._policy = policy
        self._hedge_after_s = hedge_after_s
        self._clock = clock
        self._running: list[_Entry] = []
        self._failures: list[GatewayError] = []
        self._closing: list[asyncio.Task[None]] = []
        #: When the next one is started, though none has failed; ``None``: then only.
        self._next_at: float | None = None

    async def winner(self) -> _Entry:
        """The first to yield content, or to end well without. The others are being closed."""
        self._start()
        while self._policy is Policy.RACE and self._left:
            self._start()
        while True:
            patience_s = None
            if self._next_at is not None and self._left:
                patience_s = max(0.0, self._next_at - self._clock())
            tasks = [entry.task for entry in self._running]
            done, _ = await asyncio.wait(
                tasks, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
            )
            winner = self._settle(done)
            if winner is not None:
                losers = [entry for entry in self._running if entry is not winner]
                self._give_up(losers, Outcome.SUPERSEDED)
                self._running = [winner]
                return winner
            if not done and self._left:
                self._start()

    def _settle(self, done: set[asyncio.Task[None]]) -> _Entry | None:
        """Look at those that have come as far as they can alone: whether one has won. Those that
        failed make room for the next. Raises what ends the whole."""
        winner: _Entry | None = None
        failed = [entry for entry in self._running if entry.task in done]
        for entry in failed:
            error = entry.task.exception()
            if error is None:
                winner = winner or entry
            elif isinstance(error, UpstreamFailed | UpstreamTimeout | Overloaded):
                self._failures.append(error)
            elif winner is None:
                self._running.remove(entry)
                self._give_up(self._running, Outcome.SUPERSEDED)
                self._running = []
                raise error
        if winner is not None:
            return winner
        self._running = [entry for entry in self._running if entry.task not in done]
        self._give_up(failed, Outcome.SUPERSEDED)
        if _rejection(self._failures) is not None:
            self._left = []  # the answer of one that runs on may differ, but none is asked for it
        if failed and self._left:
            self._start()
        if not self._running:
            raise _all_failed(self._failures)
        return None

    def _start(self) -> None:
        index = self._left.pop(0)
        entry = _Entry(index, self._candidates[index])
        self._running.append(entry)
        if self._policy is Policy.HEDGE:
            delay_s = self._hedge_after_s
            if delay_s is None:
                delay_s = entry.guard.p95_s()
            self._next_at = self._clock() + (_HEDGE_S if delay_s is None else delay_s)

    def _give_up(self, entries: Sequence[_Entry], outcome: Outcome | None) -> None:
        """Have them closed beside what goes on: nobody waits for the slow ones. ``outcome``: why,
        where it is not that the caller left, and they have not said themselves."""
        for entry in entries:
            if outcome is not None and entry.fate.outcome is Outcome.CLIENT_GONE:
                entry.fate.outcome = outcome
            self._closing.append(asyncio.create_task(entry.close()))

    async def close(self) -> None:
        """Have all that was started closed, and wait for it, whoever cancels that."""
        self._give_up([entry for entry in self._running if not entry.ended], None)
        await all_done(self._closing)


def _rejection(failures: Iterable[GatewayError]) -> GatewayError | None:
    """An upstream's verdict on the request itself, which is an answer."""
    return next((each for each in failures if each.code is Code.UPSTREAM_REJECTED), None)


def _all_failed(failures: Sequence[GatewayError]) -> GatewayError:
    """One error that tells of all of them."""
    rejection = _rejection(failures)
    if rejection is not None or len(failures) == 1:
        return rejection or failures[0]
    last = failures[-1]
    waits = [each.retry_after_s for each in failures if each.retry_after_s is not None]
    more: dict[str, Any] = {}
    if isinstance(last, UpstreamFailed):
        more["alive"] = last.alive
    return type(last)(
        "; ".join(each.message for each in failures),
        code=last.code,
        status=last.status,
        retry_after_s=min(waits, default=None),
        **more,
    )


def _order(
    candidates: Sequence[Candidate],
    policy: Policy,
    sticky: str | None,
    random: randomness.Random,
) -> list[int]:
    """The order in which candidates are tried, as indices. Those that are not available come last,
    by the same policy."""
    available = [each.guard.available() for each in candidates]
    first = [index for index, good in enumerate(available) if good]
    last = [index for index, good in enumerate(available) if not good]
    if policy is Policy.WEIGHTED:
        ranks = _weighted(candidates, sticky, random)
        return sorted(first, key=ranks.__getitem__) + sorted(last, key=ranks.__getitem__)
    if policy is Policy.LEAST_BUSY:
        return _least_busy(candidates, first, random) + _least_busy(candidates, last, random)
    return first + last


def _weighted(
    candidates: Sequence[Candidate], sticky: str | None, random: randomness.Random
) -> list[float]:
    """Each candidate's rank, the least first: weighted rendezvous hashing, so that where one goes
    or comes, only what is or will be its own moves."""
    ranks = []
    seen: dict[str, int] = {}
    for candidate in candidates:
        name = candidate.guard.name
        seen[name] = seen.get(name, 0) + 1
        if sticky is None:
            draw = 1.0 - random.random()
        else:
            # The same upstream may stand there twice, with a pipeline each.
            text = f"{name}\0{seen[name]}\0{sticky}".encode("utf-8", "surrogatepass")
            number = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
            draw = (number + 1) / (_HASHES + 1)
        weight = candidate.weight
        ranks.append(-log(draw) / weight if weight > 0 else float("inf"))
    return ranks


def _least_busy(
    candidates: Sequence[Candidate], indices: list[int], random: randomness.Random
) -> list[int]:
    """The less loaded of two that are drawn comes first, the others in their order. (Always taking
    the least loaded of all would send everybody there at once.)"""
    if len(indices) < 2:
        return indices
    drawn = random.sample(indices, 2)
    best = min(drawn, key=lambda index: candidates[index].guard.load())
    return [best, *(index for index in indices if index != best)]
