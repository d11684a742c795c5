"""What is kept of executions: the structs that stores hold and hand out.

An *execution* is an environment that lasts: media, an observation, and a status. A *run* is one
call of a pipeline on it. Runs of one execution go one after the other, in the order in which they
were accepted. Each beginning of a run is a *turn*, numbered from 1 within its execution: a run that
is begun again, because whoever ran it has died, gets another turn. What a run writes it writes in
the name of its turn, and as soon as there is a later one nothing of it counts any more.

Owns: these structs, the form of IDs.
Does not know: where any of it is kept, or what a pipeline is.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct

from gateway.errors import Code, RequestRejected
from gateway.model import Media

#: Letters and digits first, so that no ID is ``..``, an option or a hidden file.
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_EVENT_ID: Final = re.compile(r"([0-9]{1,9})-([0-9]{1,12})")


class Status(StrEnum):
    """How far an execution has come. One that no pipeline was ever called on has none."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing follows unless another run is asked for."""
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class Key(NamedTuple):
    """What an execution is found by. ``owner`` is the tenant of the key that made it, ``""`` where
    no keys are configured; the same ``id`` of another owner is another execution."""

    owner: str
    id: str


class New(Struct, frozen=True):
    """An execution to be made. ``meta`` is a JSON object as text; ``created_at`` Unix seconds.

    ``transient``: whoever asks is told how it went, and when its run has ended all that it held
    is removed."""

    key: Key
    created_at: float
    tag: str | None = None
    meta: bytes = b"{}"
    hook_ids: tuple[str, ...] = ()
    transient: bool = False


class Execution(Struct, frozen=True):
    """An execution as it is now. Times are Unix seconds by the clock of the replica that set them;
    ``duration_s`` is how long its last run took, measured by a clock that does not jump."""

    key: Key
    created_at: float
    tag: str | None = None
    meta: bytes = b"{}"
    hook_ids: tuple[str, ...] = ()
    transient: bool = False
    status: Status | None = None
    message: str | None = None
    completed_at: float | None = None
    duration_s: float | None = None


class Claim(Struct, frozen=True):
    """A run that ``holder`` has in its hands. ``payload`` and ``media`` are what it was submitted
    with. ``attempt`` counts this run's turns from 1; ``queued_at`` is in Unix seconds.

    A ``direct`` run is answered over the connection that asked for it: when its holder has died, so
    has the connection, and it is not begun again."""

    key: Key
    run_id: str
    turn: int
    attempt: int
    holder: str
    payload: bytes
    media: tuple[Media, ...] = ()
    queued_at: float = 0.0
    direct: bool = False


class EventId(NamedTuple):
    """The place of an event in its execution's log: ``2-17``, the 17th of the second turn.

    Ordered; within a turn without gaps. ``(0, 0)`` is before all."""

    turn: int
    number: int

    def __str__(self) -> str:
        return f"{self.turn}-{self.number}"


BEGINNING: Final = EventId(0, 0)


class Logged(NamedTuple):
    """One event of a log, as the JSON text of its ``data:`` line."""

    id: EventId
    text: bytes


class Page(Struct, frozen=True):
    """Events of a log in their order. ``ended``: there was a run, none is queued or running now,
    and these are the last. ``lost``: some that should come before them were dropped, because the
    log is bounded."""

    events: tuple[Logged, ...]
    ended: bool = False
    lost: bool = False


class HookEvent(StrEnum):
    """What a webhook may be told of."""

    STATUS_CHANGE = "STATUS_CHANGE"
    OBSERVATION_UPDATE = "OBSERVATION_UPDATE"
    SUBMIT = "SUBMIT"


class Hook(Struct, frozen=True):
    """A webhook of ``owner``. ``definition`` is its JSON as ``hook_definitions`` reads it, its
    secrets included."""

    owner: str
    id: str
    created_at: float
    definition: bytes


class Delivery(Struct, frozen=True):
    """One message to one webhook, to be delivered until the other side has said that it has it.

    ``id`` stays the same however often it is sent. ``attempt`` counts the sendings so far.
    ``due_at`` is in Unix seconds; ``delay_s`` is how long before that it was put off, so that a
    clock set back does not put it off further. ``observation`` is there only where the execution's
    own will be gone by then."""

    id: str
    hook_id: str
    key: Key
    event: HookEvent
    status: Status | None
    created_at: float
    attempt: int = 0
    due_at: float = 0.0
    delay_s: float = 0.0
    observation: bytes | None = None


class Ending(Struct, frozen=True):
    """How a run ended, and everything that is written with that, or not at all.

    ``observation`` is added to the execution's (``observation.append``, with ``replace``), where
    there is one. ``events`` come last in the log. ``completed_at``: Unix seconds."""

    status: Status
    completed_at: float
    duration_s: float
    message: str | None = None
    observation: bytes | None = None
    replace: bool = False
    events: tuple[bytes, ...] = ()
    deliveries: tuple[Delivery, ...] = ()


class Beat(Struct, frozen=True):
    """What a holder learns when it shows that it lives. ``holders``: every holder's count of beats;
    ``held``: the turns that it has in its hands (whatever else it runs was taken from it, or its
    execution removed); ``cancelled``: those of them that are to be given up; ``adopted``: direct
    ones that are to go on to their end, also without their client."""

    holders: dict[str, int]
    held: frozenset[tuple[Key, int]]
    cancelled: frozenset[tuple[Key, int]] = frozenset()
    adopted: frozenset[tuple[Key, int]] = frozenset()


def checked_id(given: str, what: str) -> str:
    """``given``, where it is a possible ID; ``what`` says of what, for the error.

    Raises RequestRejected (400)."""
    if _ID.fullmatch(given) is None:
        raise RequestRejected(
            f"{what}: not a valid ID; expected 1 to 128 letters, digits, '.', '_' or '-', the "
            f"first a letter or digit"
        )
    return given


def event_id(given: str) -> EventId:
    """``given``, a ``Last-Event-ID``, as a place in a log. Raises RequestRejected (400)."""
    match = _EVENT_ID.fullmatch(given)
    if match is None:
        raise RequestRejected(
            f'Last-Event-ID: "{given[:40]}" is no ID of an event here; expected one as 1-17'
        )
    return EventId(int(match.group(1)), int(match.group(2)))


def unknown(key: Key) -> RequestRejected:
    """The error for an execution that does not exist, or not for this owner: one and the same."""
    return RequestRejected(f'there is no execution "{key.id}"', code=Code.NOT_FOUND)
