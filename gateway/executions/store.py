"""What a store of executions does; one contract for all of them.

Each call is one transaction: it happens whole or not at all, and when it has returned, it has
happened, whatever is killed next. Any number of processes may use one store at once.

Whether a holder is alive is not told by any clock's hour, which may jump: it adds to its count of
beats, and whoever watches measures by a clock of its own how long the count has stood still.

Every call raises ``StoreFailed`` where the store cannot be reached or cannot take more (503, or
507 where it is full), and says so within a bounded time; then it is not known whether it happened.
So calls that are made again with the same arguments change nothing more: events of numbers that are
there already, deliveries of IDs that are known, are not added twice.

Owns: the names, arguments and promises of these calls.
Does not know: how any store keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from gateway.executions.records import (
    Beat,
    Claim,
    Delivery,
    Ending,
    EventId,
    Execution,
    Hook,
    Key,
    New,
    Page,
    Status,
)
from gateway.model import Media

#: A page of a log ends behind the event with which the texts in it come to so much.
PAGE_BYTES: Final = 1024 * 1024


class Superseded(Exception):
    """The turn that a claim stands for is over: the run was taken over, or its execution removed.

    Nothing was written. Whoever meets it lets go of the run without a word."""


class Store(Protocol):
    """Where executions are kept."""

    async def open(self) -> None:
        """Make it ready, its tables and such included. Raises StoreFailed."""
        ...

    async def close(self) -> None:
        """Let go of files, connections and threads, after what was asked for before."""
        ...

    # Executions

    async def create(self, new: New) -> bool:
        """Make an execution; ``False``: there is one of this key already, and nothing was done."""
        ...

    async def get(self, key: Key) -> Execution | None:
        """The execution as it is now; ``None``: there is none."""
        ...

    async def listed(
        self, owner: str, *, tag: str | None = None, after: str | None = None, limit: int = 100
    ) -> list[Execution]:
        """Those of ``owner``, the newest first, those of one ``tag`` only if given; ``limit`` of
        them, beginning behind the one whose ID is ``after`` (behind nothing where that is gone)."""
        ...

    async def delete(self, key: Key) -> bool:
        """Remove it and everything of it: media, observation, events, runs, waiting deliveries.

        A run of it that is being run is superseded. ``False``: there was none."""
        ...

    # Media and observation

    async def add_media(self, key: Key, media: Media, *, media_max: int) -> bool:
        """Keep ``media`` with the execution, behind what it has. ``False``: no such execution.

        Raises RequestRejected (``Code.CONFLICT``) where it has ``media_max`` already."""
        ...

    async def media(self, key: Key, media_id: str) -> Media | None:
        """One of the execution's media; ``None``: there is none of that ID."""
        ...

    async def has_media(self, key: Key) -> bool:
        """Whether the execution has any media; ``False`` also where there is no such execution."""
        ...

    async def all_media(self, key: Key) -> tuple[Media, ...]:
        """All of the execution's media in the order in which they were added."""
        ...

    async def observation(self, key: Key) -> bytes | None:
        """Its observation; JSON text. ``None``: it has none yet, or there is no such execution."""
        ...

    async def merge(
        self, key: Key, observation: bytes, *, replace: bool, deliveries: Sequence[Delivery] = ()
    ) -> bool:
        """Add ``observation`` to the execution's (``observation.append``), and keep ``deliveries``.

        ``False``: no such execution. Raises RequestRejected where the two do not go together, or
        ``observation`` is none."""
        ...

    # Runs

    async def submit(
        self,
        key: Key,
        run_id: str,
        payload: bytes,
        media: Sequence[Media],
        *,
        queued_at: float,
        new: New | None = None,
        deliveries: Sequence[Delivery] = (),
        runs_max: int,
    ) -> bool:
        """Queue a run: the execution is QUEUED, unless one of its runs is running already, and how
        the one before ended is told no more. A run that is queued or running is not queued twice.

        ``new``: make the execution first, if there is none. ``False``: there is none.
        Raises Overloaded where ``runs_max`` runs are queued in the whole store."""
        ...

    async def begin(
        self, key: Key, run_id: str, holder: str, *, queued_at: float, new: New | None = None
    ) -> Claim | None:
        """A direct run, which ``holder`` runs at once, beside others of the execution if need be.
        Its execution is QUEUED as by ``submit`` until ``write`` says otherwise.

        ``None``: no such execution, and none to be made."""
        ...

    async def record(self, new: New, ending: Ending) -> None:
        """Keep an execution whose only run has ended already, if there is none of its key."""
        ...

    async def claim(self, holder: str, *, wait_s: float) -> Claim | None:
        """The run that was queued first and whose execution runs no other queued one.

        It is the ``holder``'s from now on, with a turn of its own; its execution stays QUEUED until
        ``write`` says otherwise. ``None``: for ``wait_s`` seconds there was none. A call that is
        cancelled has claimed nothing, or what it has claimed is as if its holder had released it.
        """
        ...

    async def write(
        self,
        claim: Claim,
        first: int,
        events: Sequence[bytes],
        *,
        status: Status | None = None,
        deliveries: Sequence[Delivery] = (),
        events_max: int,
    ) -> None:
        """Add events to the log, the first of them the turn's ``first``; keep the newest
        ``events_max`` of the execution's. ``status``: what it is now. Raises Superseded."""
        ...

    async def finish(self, claim: Claim, first: int, ending: Ending, *, events_max: int) -> None:
        """End a run: its events, its observation, its status and its deliveries are written, its
        payload and media are removed, and the next run of the execution can be claimed.

        A transient execution keeps nothing but its status and its events from then on (``expire``
        removes those), and only when its last run has ended. Where another run of the execution is
        queued or running, that is its status. Raises Superseded; RequestRejected where the
        observation does not go with the one that is there (then nothing has happened)."""
        ...

    async def release(self, claim: Claim) -> None:
        """Put a run back where it was in the queue; this turn does not count as an attempt. The
        execution is QUEUED, unless another run of it is running. Raises Superseded."""
        ...

    async def cancel(self, key: Key, at: float, deliveries: Sequence[Delivery] = ()) -> bool:
        """Drop the execution's queued runs, and have its running ones given up: their holders learn
        it from ``beat``, and finish them. Where none runs, it is CANCELLED now, completed ``at``
        (Unix seconds), with an event that says so, and ``deliveries`` are kept; where there was
        nothing to cancel, nothing happens. ``False``: no such execution."""
        ...

    async def adopt(self, key: Key) -> None:
        """Let the execution's direct runs that run now go on to their end, whether their clients
        are there or not: somebody else has attached to them. Their holders learn it from ``beat``.
        """
        ...

    # Who lives

    async def beat(self, holder: str) -> Beat:
        """Say that ``holder`` lives: its count goes up by one, to 1 where it was unknown. Whoever
        claims a run or a delivery is known from then on, with a count of 0 until it has beaten."""
        ...

    async def take_over(
        self, dead: str, beats: int, by: str, *, attempts_max: int
    ) -> tuple[Claim, ...] | None:
        """Where ``dead`` has still the same count of beats: queue its runs again, in their old
        places, let its deliveries be claimed again, and forget it.

        Returns the runs that are not to be begun again, because they are direct, have had
        ``attempts_max`` attempts, or were being cancelled: they are ``by``'s now, with a new turn
        each, for it to finish; their ``attempt`` counts those they have had. Executions none of
        whose runs is running any more are QUEUED. ``None``: it lives, or another was faster."""
        ...

    async def leave(self, holder: str) -> None:
        """Forget a holder. One that still has runs or deliveries in its hands is not forgotten, so
        that it can be taken over."""
        ...

    # The log

    async def events(self, key: Key, after: EventId, *, limit: int = 1000) -> Page | None:
        """Up to ``limit`` events behind ``after``, fewer where they come to ``PAGE_BYTES``.
        ``None``: no such execution."""
        ...

    async def news(self, key: Key, after: EventId, *, wait_s: float) -> None:
        """Return when there may be events behind ``after``, the execution has ended or is gone;
        after ``wait_s`` seconds at the latest."""
        ...

    # Webhooks

    async def put_hook(self, hook: Hook, *, hooks_max: int) -> bool:
        """Keep it, in the place of one of the same owner and ID. ``False``: the owner has
        ``hooks_max`` others."""
        ...

    async def hook(self, owner: str, hook_id: str) -> Hook | None:
        """One of the owner's webhooks; ``None``: there is none of that ID."""
        ...

    async def hooks(self, owner: str) -> list[Hook]:
        """All of the owner's, the oldest first."""
        ...

    async def delete_hook(self, owner: str, hook_id: str) -> bool:
        """Remove it and what waits to be delivered to it. ``False``: there was none."""
        ...

    async def add_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """Keep them, to be delivered when they are due."""
        ...

    async def due(self, holder: str, now: float, *, limit: int) -> list[Delivery]:
        """Deliveries whose time has come, at most ``limit``, the longest due first; ``holder`` has
        them in its hands from now on. ``now``: Unix seconds. Those due later than their ``delay_s``
        from now are due as well: the clock was set back."""
        ...

    async def put_off(self, delivery: Delivery) -> None:
        """Let go of a delivery, to be due again as its ``attempt``, ``due_at`` and ``delay_s`` now
        say. One whose execution or hook was removed meanwhile stays removed."""
        ...

    async def delivered(self, delivery: Delivery) -> None:
        """Remove a delivery: it was made, or given up."""
        ...

    # Housekeeping

    async def expire(self, before: float, transient_before: float) -> int:
        """Remove executions that ended, or if they never ran were made, before ``before``, and
        transient ones that ended before ``transient_before`` and of which nothing waits to be
        delivered; both Unix seconds. Returns how many: some hundreds at the most at once."""
        ...

    async def counts(self) -> dict[Status, int]:
        """How many executions have each status."""
        ...

    async def next_queued_at(self) -> float | None:
        """When the run that ``claim`` would give next was queued, Unix seconds; ``None``: it would
        give none."""
        ...

    async def log_bytes(self) -> int:
        """The size of all events' texts."""
        ...
