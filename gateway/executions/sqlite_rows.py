"""What is kept of executions themselves, as rows: their media, observations and logs.

Owns: the statements over ``executions``, ``observations``, ``media``, ``pieces`` and ``events``.
Does not know: threads, transactions' beginnings and ends, why something is written.
"""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from gateway.errors import Code, RequestRejected
from gateway.executions.merging import appended
from gateway.executions.records import EventId, Execution, Key, Logged, New, Page, Status
from gateway.executions.sqlite_threads import Transaction
from gateway.executions.store import PAGE_BYTES
from gateway.model import Media

#: Files are cut into pieces of this length: copying one of them holds up the loop unnoticeably.
_PIECE_BYTES: Final = 4 * 1024 * 1024
#: What one call of ``expire`` removes at most: executions, and events, which cost most.
_EXPIRED: Final = 200
_EXPIRED_EVENTS: Final = 20_000
_WHOLE: Final = (
    "owner, id, created_at, tag, meta, hook_ids, transient, status, message, completed_at, "
    "duration_s"
)
_NEWEST: Final = 2**62


class Found(NamedTuple):
    """An execution as whoever writes to it needs to know it."""

    seq: int
    status: Status | None
    transient: bool


def found(db: sqlite3.Connection, key: Key) -> Found | None:
    """The execution of this key; ``None``: there is none."""
    row = db.execute(
        "SELECT seq, status, transient FROM executions WHERE owner = ? AND id = ?", key
    ).fetchone()
    return None if row is None else Found(row[0], row[1] and Status(row[1]), bool(row[2]))


def made(db: sqlite3.Connection, new: New, status: Status | None = None) -> int:
    """Make an execution that is not there yet; returns its ``seq``."""
    values = (
        *new.key,
        new.created_at,
        clean(new.tag),
        new.meta,
        msgspec.json.encode(new.hook_ids).decode(),
        new.transient,
        status,
    )
    return added(
        db,
        "INSERT INTO executions (owner, id, created_at, tag, meta, hook_ids, transient, status) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        values,
    )


def added(db: sqlite3.Connection, insertion: str, values: Sequence[Any]) -> int:
    """Add a row; returns its ``seq``."""
    return db.execute(insertion, values).lastrowid or 0


def clean(text: str | None) -> str | None:
    """Halves of surrogate pairs, which callers can send, cannot be kept."""
    return text and text.encode("utf-8", "replace").decode()


def create(tx: Transaction, new: New) -> bool:
    """See ``Store.create``."""
    if found(tx.db, new.key) is not None:
        return False
    made(tx.db, new)
    return True


def get(db: sqlite3.Connection, key: Key) -> Execution | None:
    """See ``Store.get``."""
    row = db.execute(
        f"SELECT {_WHOLE} FROM executions WHERE owner = ? AND id = ?",  # noqa: S608
        key,
    ).fetchone()
    return row and _execution(row)


def listed(
    db: sqlite3.Connection, owner: str, tag: str | None, after: str | None, limit: int
) -> list[Execution]:
    """See ``Store.listed``."""
    start = None
    if after is not None:
        start = found(db, Key(owner, after))
    rows = db.execute(
        f"SELECT {_WHOLE} FROM executions WHERE owner = :owner AND seq < :start "  # noqa: S608
        f"{'' if tag is None else 'AND tag = :tag '}ORDER BY seq DESC LIMIT :limit",
        {
            "owner": owner,
            "start": _NEWEST if start is None else start.seq,
            "tag": clean(tag),
            "limit": limit,
        },
    )
    return [_execution(row) for row in rows.fetchall()]


def _execution(row: Sequence[Any]) -> Execution:
    owner, name, created_at, tag, meta, hook_ids, transient, status, *rest = row
    return Execution(
        Key(owner, name),
        created_at,
        tag,
        meta,
        msgspec.json.decode(hook_ids, type=tuple[str, ...]),
        bool(transient),
        status and Status(status),
        *rest,
    )


def remove(tx: Transaction, key: Key) -> bool:
    """See ``Store.delete``."""
    execution = found(tx.db, key)
    if execution is None:
        return False
    _remove(tx, execution.seq, key)
    return True


def _remove(tx: Transaction, seq: int, key: Key) -> None:
    remove_media(tx.db, seq)
    for statement in (
        "DELETE FROM payloads WHERE run IN (SELECT seq FROM runs WHERE execution = ?)",
        "DELETE FROM runs WHERE execution = ?",
        "DELETE FROM observations WHERE execution = ?",
        "DELETE FROM events WHERE execution = ?",
        "DELETE FROM executions WHERE seq = ?",
    ):
        tx.db.execute(statement, (seq,))
    tx.db.execute("DELETE FROM deliveries WHERE owner = ? AND execution_id = ?", key)
    tx.touched.add(key)
    tx.erased = True


def expire(tx: Transaction, before: float, transient_before: float) -> int:
    """See ``Store.expire``."""
    rows = [
        *tx.db.execute(
            "SELECT seq, owner, id, log_count FROM executions WHERE completed_at < ? LIMIT ?",
            (before, _EXPIRED),
        ).fetchall(),
        *tx.db.execute(
            "SELECT seq, owner, id, log_count FROM executions "
            "WHERE status IS NULL AND created_at < ? LIMIT ?",
            (before, _EXPIRED),
        ).fetchall(),
        *tx.db.execute(
            "SELECT seq, owner, id, log_count FROM executions AS passing "
            "WHERE completed_at < ? AND completed_at IS NOT NULL AND transient = 1 AND NOT EXISTS "
            "(SELECT 1 FROM deliveries WHERE owner = passing.owner AND execution_id = passing.id) "
            "LIMIT ?",
            (transient_before, _EXPIRED),
        ).fetchall(),
    ]
    removed: set[int] = set()
    events = 0
    for seq, owner, name, log_count in rows:
        if len(removed) >= _EXPIRED or events > _EXPIRED_EVENTS:
            break
        if seq not in removed:
            _remove(tx, seq, Key(owner, name))
            removed.add(seq)
            events += log_count
    return len(removed)


def emptied(tx: Transaction, seq: int) -> None:
    """Let a transient execution, which has ended, keep nothing but its status and its events."""
    remove_media(tx.db, seq)
    tx.db.execute("DELETE FROM observations WHERE execution = ?", (seq,))
    tx.db.execute(
        "UPDATE executions SET tag = NULL, meta = x'7b7d', hook_ids = '[]' WHERE seq = ?", (seq,)
    )
    tx.erased = True


# Media. Those of an execution itself are of no run: run 0.


def add_media(tx: Transaction, key: Key, media: Media, media_max: int) -> bool:
    """See ``Store.add_media``."""
    execution = found(tx.db, key)
    if execution is None:
        return False
    there = tx.db.execute(
        "SELECT media_id FROM media WHERE execution = ? AND run = 0", (execution.seq,)
    ).fetchall()
    if (media.id,) in there:
        return True
    if len(there) >= media_max:
        raise RequestRejected(
            f'the execution "{key.id}" has {media_max} media already, which is the most',
            code=Code.CONFLICT,
        )
    keep_media(tx.db, execution.seq, 0, (media,))
    return True


def keep_media(db: sqlite3.Connection, seq: int, run: int, media: Sequence[Media]) -> None:
    """Keep media behind those that are there."""
    for one in media:
        data = memoryview(one.data)
        place = added(
            db,
            "INSERT INTO media (execution, run, media_id, content_type, filename, data) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (seq, run, one.id, one.content_type, clean(one.filename), data[:_PIECE_BYTES]),
        )
        for number in range(1, -(-len(data) // _PIECE_BYTES)):
            piece = data[number * _PIECE_BYTES : (number + 1) * _PIECE_BYTES]
            db.execute("INSERT INTO pieces VALUES (?, ?, ?)", (place, number, piece))


def media(db: sqlite3.Connection, key: Key, media_id: str | None = None) -> tuple[Media, ...]:
    """The execution's media in their order, or the one of this ID."""
    execution = found(db, key)
    if execution is None:
        return ()
    return media_of(db, execution.seq, 0, media_id)


def has_media(db: sqlite3.Connection, key: Key) -> bool:
    """See ``Store.has_media``."""
    row = db.execute(
        "SELECT 1 FROM media WHERE run = 0 AND execution = "
        "(SELECT seq FROM executions WHERE owner = ? AND id = ?) LIMIT 1",
        key,
    ).fetchone()
    return row is not None


def media_of(
    db: sqlite3.Connection, seq: int, run: int, media_id: str | None = None
) -> tuple[Media, ...]:
    """The media of a run of an execution, or of the execution itself."""
    rows = db.execute(
        "SELECT seq, media_id, data, content_type, filename FROM media "
        "WHERE execution = ? AND run = ? AND media_id = coalesce(?, media_id) ORDER BY seq",
        (seq, run, media_id),
    ).fetchall()
    return tuple(Media(name, _whole(db, place, data), *rest) for place, name, data, *rest in rows)


def _whole(db: sqlite3.Connection, place: int, first: bytes) -> bytes:
    if len(first) < _PIECE_BYTES:
        return first
    whole = io.BytesIO()
    whole.write(first)
    for (piece,) in db.execute("SELECT data FROM pieces WHERE media = ? ORDER BY number", (place,)):
        whole.write(piece)
    return whole.getvalue()


def remove_media(db: sqlite3.Connection, seq: int, which: str = "", *values: int) -> None:
    """Remove all media of an execution, or those of the runs that ``which`` selects."""
    chosen = f"execution = ? AND run IN ({which})" if which else "execution = ?"
    db.execute(
        f"DELETE FROM pieces WHERE media IN (SELECT seq FROM media WHERE {chosen})",  # noqa: S608
        (seq, *values),
    )
    db.execute(f"DELETE FROM media WHERE {chosen}", (seq, *values))  # noqa: S608


# Observations


def observation(db: sqlite3.Connection, key: Key) -> bytes | None:
    """See ``Store.observation``."""
    row = db.execute(
        "SELECT data FROM observations WHERE execution = "
        "(SELECT seq FROM executions WHERE owner = ? AND id = ?)",
        key,
    ).fetchone()
    return row and bytes(row[0])


def merged(db: sqlite3.Connection, seq: int, added: bytes, replace: bool) -> bytes:
    """What the execution's observation is with ``added``. Raises RequestRejected."""
    row = db.execute("SELECT data FROM observations WHERE execution = ?", (seq,)).fetchone()
    return appended(b"{}" if row is None else row[0], added, replace=replace)


def keep_observation(db: sqlite3.Connection, seq: int, whole: bytes) -> None:
    """Have the execution's observation be this one."""
    db.execute("INSERT OR REPLACE INTO observations VALUES (?, ?)", (seq, whole))


# The log


def log(
    tx: Transaction, key: Key, seq: int, first: EventId, texts: Sequence[bytes], *, events_max: int
) -> None:
    """Add events, the first of them as ``first``, and drop what is too much then."""
    tx.touched.add(key)
    if not texts:
        return
    db, turn, last = tx.db, first.turn, first.number + len(texts) - 1
    db.executemany(
        "INSERT INTO events VALUES (?, ?, ?, ?)",
        [(seq, turn, first.number + place, text) for place, text in enumerate(texts)],
    )
    count, size, *ids = db.execute(
        "SELECT log_count, log_bytes, last_turn, last_number, lost_turn, lost_number "
        "FROM executions WHERE seq = ?",
        (seq,),
    ).fetchone()
    newest, lost = max(EventId(*ids[:2]), EventId(turn, last)), EventId(*ids[2:])
    count += len(texts)
    size += sum(map(len, texts))
    if count > events_max:
        dropped = db.execute(
            "SELECT turn, number, length(text) FROM events WHERE execution = ? "
            "ORDER BY turn, number LIMIT ?",
            (seq, count - events_max),
        ).fetchall()
        lost = max(lost, EventId(*dropped[-1][:2]))
        db.execute(
            "DELETE FROM events WHERE execution = ? AND (turn, number) <= (?, ?)",
            (seq, *dropped[-1][:2]),
        )
        count = events_max
        size -= sum(length for _, _, length in dropped)
        tx.erased = True
    db.execute(
        "UPDATE executions SET log_count = ?, log_bytes = ?, last_turn = ?, last_number = ?, "
        "lost_turn = ?, lost_number = ? WHERE seq = ?",
        (count, size, *newest, *lost, seq),
    )


def events(db: sqlite3.Connection, key: Key, after: EventId, limit: int) -> Page | None:
    """See ``Store.events``."""
    row = db.execute(
        "SELECT seq, status, last_turn, last_number, lost_turn, lost_number "
        "FROM executions WHERE owner = ? AND id = ?",
        key,
    ).fetchone()
    if row is None:
        return None
    seq, status, *ids = row
    # What is logged between the two questions is left for the next page, as its end may be, too.
    last, lost = EventId(*ids[:2]), EventId(*ids[2:])
    rows = db.execute(
        "SELECT turn, number, text FROM events WHERE execution = ? AND (turn, number) > (?, ?) "
        "AND (turn, number) <= (?, ?) ORDER BY turn, number LIMIT ?",
        (seq, *after, *last, limit),
    )
    read: list[Logged] = []
    size = 0
    for turn, number, text in rows:
        read.append(Logged(EventId(turn, number), text))
        size += len(text)
        if size >= PAGE_BYTES:
            break
    rows.close()
    whole = (len(read) < limit and size < PAGE_BYTES) or read[-1].id >= last
    return Page(tuple(read), ended=whole and _ended(status), lost=after < lost)


def newer(db: sqlite3.Connection, watched: Sequence[tuple[Key, EventId]]) -> list[bool]:
    """Of each, whether there are events behind the given one, or it has ended, or is gone."""
    return [
        row is None or (row[1], row[2]) > after or _ended(row[0])
        for key, after in watched
        for row in (
            db.execute(
                "SELECT status, last_turn, last_number FROM executions WHERE owner = ? AND id = ?",
                key,
            ).fetchone(),
        )
    ]


def _ended(status: str | None) -> bool:
    return status is not None and Status(status).ended


def counts(db: sqlite3.Connection) -> dict[Status, int]:
    """See ``Store.counts``."""
    totals = dict(db.execute("SELECT name, n FROM totals").fetchall())
    return {status: totals[status] for status in Status}


def next_queued_at(db: sqlite3.Connection) -> float | None:
    """See ``Store.next_queued_at``."""
    row = db.execute("SELECT queued_at FROM runs WHERE state = 1 ORDER BY seq LIMIT 1").fetchone()
    return None if row is None else float(row[0])


def log_bytes(db: sqlite3.Connection) -> int:
    """See ``Store.log_bytes``."""
    [total] = db.execute("SELECT n FROM totals WHERE name = 'log bytes'").fetchone()
    return int(total)
