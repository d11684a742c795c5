"""How Redis keeps the structs of executions, and how its answers become them again.

Owns: the names of executions and places of runs, the encodings, the order of a script's arguments
that belong together.
Does not know: which script takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from gateway.executions.records import (
    Claim,
    Delivery,
    EventId,
    Execution,
    Hook,
    Key,
    Logged,
    New,
    Page,
    Status,
)
from gateway.executions.store import PAGE_BYTES
from gateway.model import Media

Argument = bytes | memoryview | str | int | float

_ENCODE: Final = msgspec.msgpack.Encoder().encode
_NEW: Final = msgspec.msgpack.Decoder(New)
_DELIVERY: Final = msgspec.msgpack.Decoder(Delivery)
_HOOK: Final = msgspec.msgpack.Decoder(Hook)
#: Files of more than this are kept in pieces of as much, so that nobody copies them as a whole.
PIECE_BYTES: Final = 512 * 1024
#: A clock that was set back by less than this is taken for the rounding that it is, seconds.
_ROUNDING_S: Final = 0.001


def name_of(key: Key) -> str:
    """An execution's name: neither owners nor IDs have a slash."""
    return f"{key.owner}/{key.id}"


def place_of(place: bytes) -> tuple[Key, str]:
    """The execution and the ID of the run that is at ``place``."""
    owner, execution_id, run_id = place.decode().split("/", 2)
    return Key(owner, execution_id), run_id


def new_arguments(new: New | None) -> tuple[Argument, ...]:
    """What ``make`` takes of an execution; of none as much."""
    if new is None:
        return (b"", b"", b"", b"")
    bare = _ENCODE(New(new.key, new.created_at, transient=True)) if new.transient else b""
    cleaned = replace(new, tag=_clean(new.tag))
    return (_ENCODE(cleaned), new.created_at, bare, tag_argument(new.tag))


def _clean(text: str | None) -> str | None:
    """Halves of surrogate pairs, which callers can send, cannot be kept."""
    return text and text.encode("utf-8", "replace").decode()


def tag_argument(tag: str | None) -> bytes:
    """A tag as ``make`` takes it; nothing for none."""
    return b"" if tag is None else b"=" + tag.encode("utf-8", "replace")


#: What of an execution it takes to tell of it.
EXECUTION: Final = ("new", "status", "message", "completed", "duration", "anew")


def execution_of(found: Sequence[bytes | None]) -> Execution | None:
    """The execution of which these are the fields ``EXECUTION``."""
    kept, status, message, completed, duration, anew = found
    if kept is None:
        return None
    new = _NEW.decode(kept)
    now = None if status is None else Status(status.decode())
    ended = now is not None and now.ended
    return Execution(
        new.key,
        new.created_at,
        new.tag,
        new.meta,
        new.hook_ids,
        new.transient,
        status=now,
        message=message[1:].decode() if ended and message else None,
        completed_at=float(completed) if ended and completed is not None else None,
        duration_s=float(duration) if duration is not None and anew is None else None,
    )


def message_argument(message: str | None) -> bytes:
    """A message that may be empty, or none."""
    return b"" if message is None else b"=" + message.encode("utf-8", "replace")


class Kept(msgspec.Struct, array_like=True):
    """Files as they are kept: small ones whole, those of large ones without their bytes, which are
    in pieces beside them. ``pieces``: how many, of each."""

    media: tuple[Media, ...]
    pieces: tuple[int, ...]

    def fields(self, name: str) -> list[str]:
        """The names of the pieces, where those before the number are ``name``."""
        return [f"{name}{number}" for number in range(sum(self.pieces))]

    def whole(self, pieces: Sequence[bytes]) -> tuple[Media, ...]:
        """The files, with their bytes."""
        left = iter(pieces)
        return tuple(
            replace(media, data=b"".join(islice(left, count))) if count else media
            for media, count in zip(self.media, self.pieces, strict=True)
        )


_KEPT: Final = msgspec.msgpack.Decoder(Kept)


def media_arguments(media: Sequence[Media]) -> list[Argument]:
    """Files as a script takes them: what is ``Kept``, and the pieces with their count before them.

    Nothing here copies what is large."""
    if not media:
        return [b"", 0]
    kept, counts, pieces = list[Media](), list[int](), list[memoryview]()
    for each in media:
        starts = range(0, len(each.data), PIECE_BYTES) if len(each.data) > PIECE_BYTES else ()
        whole = memoryview(each.data)
        pieces += [whole[start : start + PIECE_BYTES] for start in starts]
        kept.append(
            replace(each, filename=_clean(each.filename), data=b"" if starts else each.data)
        )
        counts.append(len(starts))
    return [_ENCODE(Kept(tuple(kept), tuple(counts))), len(pieces), *pieces]


def kept_of(found: bytes | None) -> Kept:
    """The files that were kept so."""
    return _KEPT.decode(found) if found else Kept((), ())


def claim_of(found: Sequence[bytes], holder: str) -> tuple[Claim, Kept]:
    """What ``claim_of`` of the scripts says of a run, and its files."""
    place, turn, attempt, payload, media, at, direct = found
    owner, execution_id, run_id = place.decode().split("/", 2)
    key = Key(owner, execution_id)
    claim = Claim(
        key, run_id, int(turn), int(attempt), holder, payload, (), float(at), bool(direct)
    )
    return claim, kept_of(media)


def observation_arguments(observation: bytes | None) -> list[Argument]:
    """An observation as a script takes it: its count of pieces, 0 for none, and those."""
    if observation is None:
        return [0]
    whole = memoryview(observation)
    starts = range(0, max(1, len(whole)), PIECE_BYTES)
    return [len(starts), *(whole[start : start + PIECE_BYTES] for start in starts)]


def logged(turn: int, first: int, events: Sequence[bytes]) -> list[bytes]:
    """Events as members of a log, which are in the order of their letters."""
    return [b"%09d%012d%b" % (turn, number, text) for number, text in enumerate(events, first)]


def position(at: EventId) -> bytes:
    """A place in a log, as its members begin."""
    return b"%09d%012d" % at


def page_of(found: Sequence[Any], after: EventId, limit: int) -> Page:
    """What the script says that is behind ``after``."""
    members, newest, dropped, status = found
    events = tuple(Logged(EventId(int(each[:9]), int(each[9:21])), each[21:]) for each in members)
    end = members[-1][:21] if members else position(after)
    short = len(members) < limit and sum(map(len, members)) < PAGE_BYTES
    return Page(
        events,
        ended=status is not None
        and Status(status.decode()).ended
        and (short or newest is None or end >= newest),
        lost=dropped is not None and position(after) < dropped,
    )


def delivery_arguments(deliveries: Sequence[Delivery]) -> list[Argument]:
    """What ``deliver`` takes."""
    arguments: list[Argument] = [len(deliveries)]
    for each in deliveries:
        hook = f"{each.key.owner}/{each.hook_id}"
        arguments += (each.id, name_of(each.key), hook, *due_arguments(each))
    return arguments


def due_arguments(delivery: Delivery) -> tuple[Argument, ...]:
    """When it is due, since when it is put off, and the delivery."""
    since = delivery.due_at - delivery.delay_s - _ROUNDING_S
    return (delivery.due_at, since, _ENCODE(delivery))


def delivery_of(kept: bytes) -> Delivery:
    """The delivery that was kept so."""
    return _DELIVERY.decode(kept)


def hook_argument(hook: Hook) -> bytes:
    """A webhook as it is kept."""
    return _ENCODE(hook)


def hook_of(kept: bytes) -> Hook:
    """The webhook that was kept so."""
    return _HOOK.decode(kept)
