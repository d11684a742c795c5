"""Runs, as rows: who has which in his hands, and what is written in the name of a turn.

An execution has one run that may be claimed or is, besides direct ones; the others are blocked by
it. So the next run is found by one look into an index, however many are queued.

Owns: the statements over ``runs``, ``payloads`` and ``holders``; that nothing is written for a turn
that is over.
Does not know: threads, how executions and deliveries are kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from gateway.errors import Overloaded
from gateway.executions import sqlite_hooks as hooks
from gateway.executions import sqlite_rows as rows
from gateway.executions.merging import appended
from gateway.executions.records import (
    Beat,
    Claim,
    Delivery,
    Ending,
    EventId,
    Key,
    New,
    Status,
)
from gateway.executions.sqlite_file import BLOCKED, CLAIMED, READY, RUNNING
from gateway.executions.sqlite_threads import Transaction
from gateway.executions.store import Superseded
from gateway.executions.telling import status_event
from gateway.model import Media

_RUN: Final = (
    "SELECT r.seq, r.execution, r.run_id, r.attempts, r.queued_at, r.direct, e.owner, e.id, "
    "e.turn, r.cancelled, r.turn, r.adopted "
    "FROM runs AS r CROSS JOIN executions AS e ON e.seq = r.execution "
)
#: For what is written once: the next write keeps the bound again.
_UNBOUND: Final = 2**40


class _Run(NamedTuple):
    seq: int
    execution: int
    run_id: str
    attempts: int
    queued_at: float
    direct: int
    owner: str
    id: str
    #: The latest turn of its execution.
    latest: int
    cancelled: int
    turn: int | None
    adopted: int

    @property
    def key(self) -> Key:
        return Key(self.owner, self.id)


class _Held(NamedTuple):
    """A run in its holder's hands, as what is written in its name needs to know it."""

    seq: int
    execution: int
    logged: int
    direct: int
    state: int
    status: str
    transient: int


# Queueing


def submit(
    tx: Transaction,
    key: Key,
    run_id: str,
    payload: bytes,
    media: Sequence[Media],
    *,
    queued_at: float,
    new: New | None,
    deliveries: Sequence[Delivery],
    runs_max: int,
) -> bool:
    """See ``Store.submit``."""
    db = tx.db
    execution = rows.found(db, key)
    state = READY
    if execution is None:
        if new is None:
            return False
        _bounded(db, runs_max)
        seq = rows.made(db, new, Status.QUEUED)
    else:
        seq = execution.seq
        if _pending(db, seq, run_id) is not None:
            return True
        _bounded(db, runs_max)
        if execution.status is not None and not execution.status.ended:
            state = BLOCKED if _blocking(db, seq) else READY
        _queued(db, seq, execution.status)
    run = _added(db, seq, run_id, state, queued_at)
    db.execute("INSERT INTO payloads VALUES (?, ?)", (run, payload))
    if media:
        rows.keep_media(db, seq, run, media)
    if deliveries:
        hooks.add(tx, deliveries)
    return True


def begin(
    tx: Transaction, key: Key, run_id: str, holder: str, *, queued_at: float, new: New | None
) -> Claim | None:
    """See ``Store.begin``."""
    db = tx.db
    execution = rows.found(db, key)
    if execution is None:
        if new is None:
            return None
        seq = rows.made(db, new, Status.QUEUED)
    else:
        seq = execution.seq
        there = _pending(db, seq, run_id)
        if there is not None and there.turn is not None:
            return _claim_of(db, there, there.turn, there.attempts, holder)
        _queued(db, seq, execution.status)
    run = _added(db, seq, run_id, CLAIMED, queued_at, direct=True)
    [there] = _runs(db, "WHERE r.seq = ?", run)
    return _taken(tx, there, holder)


def _bounded(db: sqlite3.Connection, runs_max: int) -> None:
    [queued] = db.execute("SELECT n FROM totals WHERE name = 'runs queued'").fetchone()
    if queued >= runs_max:
        raise Overloaded(f"{runs_max} runs are queued already", retry_after_s=1)


def _added(
    db: sqlite3.Connection,
    seq: int,
    run_id: str,
    state: int,
    queued_at: float,
    *,
    direct: bool = False,
) -> int:
    return rows.added(
        db,
        "INSERT INTO runs (execution, run_id, state, direct, queued_at) VALUES (?, ?, ?, ?, ?)",
        (seq, run_id, state, direct, queued_at),
    )


def _pending(db: sqlite3.Connection, seq: int, run_id: str) -> _Run | None:
    """The run of this ID, where it has not ended."""
    found = _runs(db, "WHERE r.execution = ? AND r.run_id = ?", seq, run_id)
    return found[0] if found else None


def _blocking(db: sqlite3.Connection, seq: int) -> bool:
    """Whether another run than direct ones is queued or held."""
    found = db.execute("SELECT 1 FROM runs WHERE execution = ? AND direct = 0 LIMIT 1", (seq,))
    return found.fetchone() is not None


def _queued(db: sqlite3.Connection, seq: int, status: Status | None) -> None:
    if status is None or status.ended:
        db.execute(
            "UPDATE executions SET status = 'QUEUED', message = NULL, completed_at = NULL, "
            "duration_s = NULL WHERE seq = ?",
            (seq,),
        )


# Holding


def worth_claiming(db: sqlite3.Connection) -> bool:
    """Whether any run can be claimed."""
    return db.execute("SELECT 1 FROM runs WHERE state = 1 LIMIT 1").fetchone() is not None


def claim(tx: Transaction, holder: str) -> Claim | None:
    """See ``Store.claim``."""
    found = _runs(tx.db, "WHERE r.state = 1 ORDER BY r.seq LIMIT 1")
    return _taken(tx, found[0], holder) if found else None


def _runs(db: sqlite3.Connection, chosen: str, *values: Any) -> list[_Run]:
    return [_Run(*row) for row in db.execute(_RUN + chosen, values).fetchall()]


def _taken(tx: Transaction, run: _Run, holder: str) -> Claim:
    """The run is the holder's from now on, with a turn and an attempt of its own."""
    db, turn, attempt = tx.db, run.latest + 1, run.attempts + 1
    db.execute("UPDATE executions SET turn = ? WHERE seq = ?", (turn, run.execution))
    db.execute(
        "UPDATE runs SET state = ?, turn = ?, attempts = ?, holder = ?, logged = 0 WHERE seq = ?",
        (CLAIMED, turn, attempt, holder, run.seq),
    )
    known(db, holder)
    return _claim_of(db, run, turn, attempt, holder)


def _claim_of(db: sqlite3.Connection, run: _Run, turn: int, attempt: int, holder: str) -> Claim:
    row = db.execute("SELECT data FROM payloads WHERE run = ?", (run.seq,)).fetchone()
    return Claim(
        run.key,
        run.run_id,
        turn,
        attempt,
        holder,
        payload=bytes(row[0]) if row is not None else b"",
        media=rows.media_of(db, run.execution, run.seq),
        queued_at=run.queued_at,
        direct=bool(run.direct),
    )


def known(db: sqlite3.Connection, holder: str) -> None:
    """Whoever has something in his hands is known, so that he can be taken over."""
    db.execute("INSERT INTO holders VALUES (?, 0) ON CONFLICT DO NOTHING", (holder,))


def _held(tx: Transaction, claim: Claim) -> _Held:
    """The run that ``claim`` stands for. Raises Superseded."""
    row = tx.db.execute(
        "SELECT r.seq, r.execution, r.logged, r.direct, r.state, e.status, e.transient "
        "FROM executions AS e CROSS JOIN runs AS r ON r.execution = e.seq AND r.run_id = ? "
        "WHERE e.owner = ? AND e.id = ? AND r.turn = ? AND r.holder = ?",
        (claim.run_id, *claim.key, claim.turn, claim.holder),
    ).fetchone()
    if row is None:
        raise Superseded
    return _Held(*row)


# Writing in the name of a turn


def write(
    tx: Transaction,
    claim: Claim,
    first: int,
    events: Sequence[bytes],
    *,
    status: Status | None,
    deliveries: Sequence[Delivery],
    events_max: int,
) -> None:
    """See ``Store.write``."""
    held = _held(tx, claim)
    _log(tx, claim, held, first, events, events_max=events_max)
    if status is not None:
        state = RUNNING if status is Status.RUNNING else held.state
        tx.db.execute("UPDATE runs SET state = ? WHERE seq = ?", (state, held.seq))
        tx.db.execute("UPDATE executions SET status = ? WHERE seq = ?", (status, held.execution))
    if deliveries:
        hooks.add(tx, deliveries)


def _log(
    tx: Transaction,
    claim: Claim,
    held: _Held,
    first: int,
    texts: Sequence[bytes],
    *,
    events_max: int,
) -> None:
    """Add those events that are not there yet: the call may have been made before."""
    there = max(held.logged + 1 - first, 0)
    start = EventId(claim.turn, first + there)
    rows.log(tx, claim.key, held.execution, start, texts[there:], events_max=events_max)
    if len(texts) > there:
        tx.db.execute(
            "UPDATE runs SET logged = ? WHERE seq = ?", (first + len(texts) - 1, held.seq)
        )


def finish(tx: Transaction, claim: Claim, first: int, ending: Ending, events_max: int) -> None:
    """See ``Store.finish``."""
    held = _held(tx, claim)
    db, seq = tx.db, held.execution
    whole = None
    if ending.observation is not None:
        whole = rows.merged(db, seq, ending.observation, ending.replace)
    _log(tx, claim, held, first, ending.events, events_max=events_max)
    if whole is not None:
        rows.keep_observation(db, seq, whole)
    _dropped(tx, seq, "SELECT ?", held.seq)
    if not held.direct:
        db.execute(
            "UPDATE runs SET state = ? WHERE seq = "
            "(SELECT min(seq) FROM runs WHERE execution = ? AND state = ?)",
            (READY, seq, BLOCKED),
        )
    if not _settled(db, seq, ending.duration_s):
        _end(tx, seq, ending, transient=bool(held.transient))
    if ending.deliveries:
        hooks.add(tx, ending.deliveries)


def _dropped(tx: Transaction, seq: int, which: str, value: int) -> int:
    """Remove runs of an execution and what they were submitted with; returns how many."""
    rows.remove_media(tx.db, seq, which, value)
    tx.db.execute(f"DELETE FROM payloads WHERE run IN ({which})", (value,))  # noqa: S608
    gone = tx.db.execute(f"DELETE FROM runs WHERE seq IN ({which})", (value,))  # noqa: S608
    tx.erased = True
    return gone.rowcount


def _settled(db: sqlite3.Connection, seq: int, duration_s: float | None = None) -> bool:
    """Have the execution's status be that of its runs; ``False``: it has none any more."""
    [furthest] = db.execute("SELECT max(state) FROM runs WHERE execution = ?", (seq,)).fetchone()
    if furthest is None:
        return False
    status = Status.RUNNING if furthest == RUNNING else Status.QUEUED
    db.execute(
        "UPDATE executions SET status = ?, duration_s = coalesce(?, duration_s) WHERE seq = ?",
        (status, duration_s, seq),
    )
    return True


def _end(tx: Transaction, seq: int, ending: Ending, *, transient: bool) -> None:
    tx.db.execute(
        "UPDATE executions SET status = ?, message = ?, completed_at = ?, duration_s = ? "
        "WHERE seq = ?",
        (
            ending.status,
            rows.clean(ending.message),
            ending.completed_at,
            ending.duration_s,
            seq,
        ),
    )
    if transient:
        rows.emptied(tx, seq)


def record(tx: Transaction, new: New, ending: Ending) -> None:
    """See ``Store.record``."""
    if rows.found(tx.db, new.key) is not None:
        return
    whole = None
    if ending.observation is not None:
        whole = appended(b"{}", ending.observation, replace=ending.replace)
    seq = rows.made(tx.db, new, ending.status)
    tx.db.execute("UPDATE executions SET turn = 1 WHERE seq = ?", (seq,))
    rows.log(tx, new.key, seq, EventId(1, 1), ending.events, events_max=_UNBOUND)
    if whole is not None:
        rows.keep_observation(tx.db, seq, whole)
    _end(tx, seq, ending, transient=new.transient)
    hooks.add(tx, ending.deliveries)


def due(tx: Transaction, holder: str, now: float, limit: int) -> list[Delivery]:
    """See ``Store.due``."""
    found = hooks.due(tx, holder, now, limit)
    if found:
        known(tx.db, holder)
    return found


def release(tx: Transaction, claim: Claim) -> None:
    """See ``Store.release``. A direct run has no place in a queue, and ends as if cancelled."""
    held = _held(tx, claim)
    if held.direct:
        cancelled = Ending(
            Status.CANCELLED,
            claim.queued_at,
            0.0,
            events=(status_event(claim.key, Status.CANCELLED),),
        )
        finish(tx, claim, held.logged + 1, cancelled, events_max=_UNBOUND)
        return
    tx.db.execute(
        "UPDATE runs SET state = ?, attempts = attempts - 1, holder = NULL, turn = NULL "
        "WHERE seq = ?",
        (READY, held.seq),
    )
    _settled(tx.db, held.execution)


def cancel(tx: Transaction, key: Key, at: float, deliveries: Sequence[Delivery]) -> bool:
    """See ``Store.cancel``."""
    db = tx.db
    execution = rows.found(db, key)
    if execution is None:
        return False
    seq = execution.seq
    queued = _dropped(tx, seq, "SELECT seq FROM runs WHERE execution = ? AND state < 2", seq)
    db.execute("UPDATE runs SET cancelled = 1 WHERE execution = ?", (seq,))
    if not queued or _settled(db, seq):
        return True
    db.execute("UPDATE executions SET turn = turn + 1 WHERE seq = ?", (seq,))
    [turn] = db.execute("SELECT turn FROM executions WHERE seq = ?", (seq,)).fetchone()
    text = status_event(key, Status.CANCELLED)
    rows.log(tx, key, seq, EventId(turn, 1), (text,), events_max=_UNBOUND)
    _end(tx, seq, Ending(Status.CANCELLED, at, 0.0), transient=execution.transient)
    hooks.add(tx, deliveries)
    return True


def adopt(tx: Transaction, key: Key) -> None:
    """See ``Store.adopt``."""
    tx.db.execute(
        "UPDATE runs SET adopted = 1 WHERE direct = 1 AND execution = "
        "(SELECT seq FROM executions WHERE owner = ? AND id = ?)",
        key,
    )


# Who lives


def beat(tx: Transaction, holder: str) -> Beat:
    """See ``Store.beat``."""
    tx.db.execute(
        "INSERT INTO holders VALUES (?, 1) ON CONFLICT (holder) DO UPDATE SET beats = beats + 1",
        (holder,),
    )
    held = _runs(tx.db, "WHERE r.holder = ?", holder)
    turns = [(run, (run.key, run.turn)) for run in held if run.turn is not None]
    return Beat(
        dict(tx.db.execute("SELECT holder, beats FROM holders").fetchall()),
        held=frozenset(turn for _, turn in turns),
        cancelled=frozenset(turn for run, turn in turns if run.cancelled),
        adopted=frozenset(turn for run, turn in turns if run.adopted),
    )


def take_over(
    tx: Transaction, dead: str, beats: int, by: str, attempts_max: int
) -> tuple[Claim, ...] | None:
    """See ``Store.take_over``."""
    db = tx.db
    gone = db.execute("DELETE FROM holders WHERE holder = ? AND beats = ?", (dead, beats))
    if gone.rowcount == 0:
        return None
    claims = []
    for run in _runs(db, "WHERE r.holder = ? ORDER BY r.seq", dead):
        if run.direct or run.cancelled or run.attempts >= attempts_max:
            # Of runs of one execution, each gets a turn that is later than the other's.
            db.execute("UPDATE executions SET turn = turn + 1 WHERE seq = ?", (run.execution,))
            db.execute(
                "UPDATE runs SET holder = ?, logged = 0, "
                "turn = (SELECT turn FROM executions WHERE seq = runs.execution) WHERE seq = ?",
                (by, run.seq),
            )
            [again] = _runs(db, "WHERE r.seq = ?", run.seq)
            claims.append(_claim_of(db, again, again.latest, again.attempts, by))
        else:
            db.execute(
                "UPDATE runs SET state = ?, holder = NULL, turn = NULL WHERE seq = ?",
                (READY, run.seq),
            )
            _settled(db, run.execution)
    hooks.let_go(tx, dead)
    known(db, by)
    return tuple(claims)


def hand_back(dead: str, beats: int, claims: Sequence[Claim], tx: Transaction) -> None:
    """The dead holder's runs were handed over to somebody who has gone: they are its own again."""
    tx.db.execute("INSERT INTO holders VALUES (?, ?) ON CONFLICT DO NOTHING", (dead, beats))
    for claim in claims:
        run = _held(tx, claim).seq
        tx.db.execute("UPDATE runs SET holder = ? WHERE seq = ?", (dead, run))


def leave(tx: Transaction, holder: str) -> None:
    """See ``Store.leave``."""
    tx.db.execute(
        "DELETE FROM holders WHERE holder = :holder "
        "AND NOT EXISTS (SELECT 1 FROM runs WHERE holder = :holder) "
        "AND NOT EXISTS (SELECT 1 FROM deliveries WHERE holder = :holder)",
        {"holder": holder},
    )
