"""Webhooks, and what waits to be delivered to them, as rows.

Owns: the statements over ``hooks`` and ``deliveries``.
Does not know: what a webhook is told, or how.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from gateway.executions.records import Delivery, Hook, HookEvent, Key, Status
from gateway.executions.sqlite_threads import Transaction

_DELIVERY: Final = (
    "SELECT id, hook_id, owner, execution_id, event, status, created_at, attempt, due_at, delay_s, "
    "observation FROM deliveries "
)
#: By so much the hour of a delivery's putting off may come out wrong when it is worked out again.
_ROUNDING_S: Final = 0.01


def put(tx: Transaction, hook: Hook, hooks_max: int) -> bool:
    """See ``Store.put_hook``."""
    [others] = tx.db.execute(
        "SELECT count(*) FROM hooks WHERE owner = ? AND id <> ?", (hook.owner, hook.id)
    ).fetchone()
    there = get(tx.db, hook.owner, hook.id)
    if there is None and others >= hooks_max:
        return False
    tx.db.execute(
        "INSERT INTO hooks (owner, id, created_at, definition) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (owner, id) DO UPDATE SET created_at = excluded.created_at, "
        "definition = excluded.definition",
        (hook.owner, hook.id, hook.created_at, hook.definition),
    )
    tx.erased = tx.erased or there is not None
    return True


def get(db: sqlite3.Connection, owner: str, hook_id: str) -> Hook | None:
    """See ``Store.hook``."""
    row = db.execute(
        "SELECT owner, id, created_at, definition FROM hooks WHERE owner = ? AND id = ?",
        (owner, hook_id),
    ).fetchone()
    return row and Hook(*row)


def listed(db: sqlite3.Connection, owner: str) -> list[Hook]:
    """See ``Store.hooks``."""
    rows = db.execute(
        "SELECT owner, id, created_at, definition FROM hooks WHERE owner = ? ORDER BY seq", (owner,)
    )
    return [Hook(*row) for row in rows.fetchall()]


def remove(tx: Transaction, owner: str, hook_id: str) -> bool:
    """See ``Store.delete_hook``."""
    gone = tx.db.execute("DELETE FROM hooks WHERE owner = ? AND id = ?", (owner, hook_id))
    if gone.rowcount == 0:
        return False
    tx.db.execute("DELETE FROM deliveries WHERE owner = ? AND hook_id = ?", (owner, hook_id))
    tx.erased = True
    return True


def add(tx: Transaction, deliveries: Sequence[Delivery]) -> None:
    """See ``Store.add_deliveries``."""
    for each in deliveries:
        tx.db.execute(
            "INSERT INTO deliveries (id, hook_id, owner, execution_id, event, status, created_at, "
            "attempt, due_at, delay_s, observation) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            (
                each.id,
                each.hook_id,
                *each.key,
                each.event,
                each.status,
                each.created_at,
                each.attempt,
                each.due_at,
                each.delay_s,
                each.observation,
            ),
        )


def due(tx: Transaction, holder: str, now: float, limit: int) -> list[Delivery]:
    """See ``Store.due``."""
    rows = tx.db.execute(
        f"{_DELIVERY} WHERE holder IS NULL AND due_at <= ? ORDER BY due_at, seq LIMIT ?",
        (now, limit),
    ).fetchall()
    if len(rows) < limit:
        # The hour of the putting off is looked up in an index, and then held to to the letter.
        rows += tx.db.execute(
            f"{_DELIVERY} INDEXED BY deliveries_begun WHERE holder IS NULL "
            "AND due_at - delay_s > ? AND due_at > ? + delay_s ORDER BY due_at, seq LIMIT ?",
            (now - _ROUNDING_S, now, limit - len(rows)),
        ).fetchall()
    found = [_delivery(row) for row in rows]
    for each in found:
        tx.db.execute("UPDATE deliveries SET holder = ? WHERE id = ?", (holder, each.id))
    return found


def _delivery(row: Sequence[Any]) -> Delivery:
    name, hook_id, owner, execution_id, event, status, *rest = row
    return Delivery(
        name,
        hook_id,
        Key(owner, execution_id),
        HookEvent(event),
        status and Status(status),
        *rest,
    )


def hand_back(holder: str, deliveries: Sequence[Delivery], tx: Transaction) -> None:
    """Let go of deliveries that ``due`` has put into the hands of somebody who has gone."""
    for each in deliveries:
        tx.db.execute(
            "UPDATE deliveries SET holder = NULL WHERE id = ? AND holder = ?", (each.id, holder)
        )


def put_off(tx: Transaction, delivery: Delivery) -> None:
    """See ``Store.put_off``."""
    tx.db.execute(
        "UPDATE deliveries SET attempt = ?, due_at = ?, delay_s = ?, holder = NULL WHERE id = ?",
        (delivery.attempt, delivery.due_at, delivery.delay_s, delivery.id),
    )


def delivered(tx: Transaction, delivery: Delivery) -> None:
    """See ``Store.delivered``."""
    tx.db.execute("DELETE FROM deliveries WHERE id = ?", (delivery.id,))
    tx.erased = tx.erased or delivery.observation is not None


def let_go(tx: Transaction, holder: str) -> None:
    """Nothing is in the holder's hands any more."""
    tx.db.execute("UPDATE deliveries SET holder = NULL WHERE holder = ?", (holder,))
