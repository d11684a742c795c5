"""The file that executions are kept in: its tables, how it is opened, what its errors mean.

What grows is apart from what is often written: changing an execution's status must not touch its
observation. Sums that are asked for often are kept by triggers, so that nobody counts rows.

Owns: the tables and their indexes, the settings of a connection, what SQLite's errors mean.
Does not know: what is written when; threads.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from gateway.errors import Code, StoreFailed

#: What a run waits for: the end of another one of its execution, somebody to claim it, its holder
#: to begin it, nothing. All that come before a third are queued, the others held.
BLOCKED: Final = 0
READY: Final = 1
CLAIMED: Final = 2
RUNNING: Final = 3

#: Written into the file, so that another program's database is not taken for one of ours.
_APPLICATION: Final = 0x70677764
_VERSION: Final = 1
#: RETURNING, row values in partial indexes and the like are not used, UPSERT is.
_SQLITE_MIN: Final = (3, 24, 0)
#: What the write-ahead log may leave on the disk when it begins anew.
_LOG_BYTES: Final = 64 * 1024 * 1024
#: How long that log grows, in pages of 4 KiB, before what is in it is put into its place. Whoever
#: writes waits for that; put off, it is less often, and each page less often among it.
_LOG_PAGES: Final = 4000
#: How often to try whether another process has ended its writing. SQLite itself waits longer and
#: longer, and so the longest for whom it let wait the longest.
_AGAIN_S: Final = 0.0005

_SCHEMA: Final = """
CREATE TABLE executions (
    seq INTEGER PRIMARY KEY,
    owner TEXT NOT NULL, id TEXT NOT NULL, created_at REAL NOT NULL, tag TEXT, meta BLOB NOT NULL,
    hook_ids TEXT NOT NULL, transient INTEGER NOT NULL,
    status TEXT, message TEXT, completed_at REAL, duration_s REAL,
    turn INTEGER NOT NULL DEFAULT 0,
    last_turn INTEGER NOT NULL DEFAULT 0, last_number INTEGER NOT NULL DEFAULT 0,
    lost_turn INTEGER NOT NULL DEFAULT 0, lost_number INTEGER NOT NULL DEFAULT 0,
    log_count INTEGER NOT NULL DEFAULT 0, log_bytes INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX executions_by_key ON executions(owner, id);
CREATE INDEX executions_by_owner ON executions(owner);
CREATE INDEX executions_by_tag ON executions(owner, tag) WHERE tag IS NOT NULL;
CREATE INDEX executions_ended ON executions(completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX executions_passing ON executions(completed_at)
    WHERE completed_at IS NOT NULL AND transient = 1;
CREATE INDEX executions_idle ON executions(created_at) WHERE status IS NULL;

CREATE TABLE observations (execution INTEGER PRIMARY KEY, data BLOB NOT NULL);

CREATE TABLE runs (
    seq INTEGER PRIMARY KEY,
    execution INTEGER NOT NULL, run_id TEXT NOT NULL, state INTEGER NOT NULL,
    direct INTEGER NOT NULL, queued_at REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    holder TEXT, turn INTEGER, logged INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0, adopted INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX runs_ready ON runs(state) WHERE state = 1;
CREATE INDEX runs_of ON runs(execution, state);
CREATE UNIQUE INDEX runs_by_id ON runs(execution, run_id);
CREATE INDEX runs_held ON runs(holder) WHERE holder IS NOT NULL;
CREATE TABLE payloads (run INTEGER PRIMARY KEY, data BLOB NOT NULL);

CREATE TABLE media (
    seq INTEGER PRIMARY KEY,
    execution INTEGER NOT NULL, run INTEGER NOT NULL, media_id TEXT NOT NULL,
    content_type TEXT NOT NULL, filename TEXT, data BLOB NOT NULL
);
CREATE INDEX media_of ON media(execution, run);
CREATE TABLE pieces (media INTEGER NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX pieces_of ON pieces(media, number);

CREATE TABLE events (
    execution INTEGER NOT NULL, turn INTEGER NOT NULL, number INTEGER NOT NULL, text BLOB NOT NULL,
    PRIMARY KEY (execution, turn, number)
) WITHOUT ROWID;

CREATE TABLE holders (holder TEXT PRIMARY KEY, beats INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE hooks (
    seq INTEGER PRIMARY KEY,
    owner TEXT NOT NULL, id TEXT NOT NULL, created_at REAL NOT NULL, definition BLOB NOT NULL
);
CREATE UNIQUE INDEX hooks_by_id ON hooks(owner, id);

CREATE TABLE deliveries (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE, hook_id TEXT NOT NULL, owner TEXT NOT NULL, execution_id TEXT NOT NULL,
    event TEXT NOT NULL, status TEXT, created_at REAL NOT NULL, attempt INTEGER NOT NULL,
    due_at REAL NOT NULL, delay_s REAL NOT NULL, holder TEXT, observation BLOB
);
CREATE INDEX deliveries_due ON deliveries(due_at) WHERE holder IS NULL;
CREATE INDEX deliveries_begun ON deliveries(due_at - delay_s) WHERE holder IS NULL;
CREATE INDEX deliveries_held ON deliveries(holder) WHERE holder IS NOT NULL;
CREATE INDEX deliveries_of ON deliveries(owner, execution_id);
CREATE INDEX deliveries_to ON deliveries(owner, hook_id);

CREATE TABLE totals (name TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO totals VALUES
    ('QUEUED', 0), ('RUNNING', 0), ('COMPLETED', 0), ('FAILED', 0), ('CANCELLED', 0),
    ('runs queued', 0), ('log bytes', 0);
CREATE TRIGGER execution_made AFTER INSERT ON executions WHEN new.status IS NOT NULL BEGIN
    UPDATE totals SET n = n + 1 WHERE name = new.status;
END;
CREATE TRIGGER execution_changed AFTER UPDATE OF status ON executions
WHEN old.status IS NOT new.status BEGIN
    UPDATE totals SET n = n - 1 WHERE name = old.status;
    UPDATE totals SET n = n + 1 WHERE name = new.status;
END;
CREATE TRIGGER execution_logged AFTER UPDATE OF log_bytes ON executions BEGIN
    UPDATE totals SET n = n + new.log_bytes - old.log_bytes WHERE name = 'log bytes';
END;
CREATE TRIGGER execution_removed AFTER DELETE ON executions BEGIN
    UPDATE totals SET n = n - 1 WHERE name = old.status;
    UPDATE totals SET n = n - old.log_bytes WHERE name = 'log bytes';
END;
CREATE TRIGGER run_queued AFTER INSERT ON runs WHEN new.state < 2 BEGIN
    UPDATE totals SET n = n + 1 WHERE name = 'runs queued';
END;
CREATE TRIGGER run_changed AFTER UPDATE OF state ON runs
WHEN (old.state < 2) <> (new.state < 2) BEGIN
    UPDATE totals SET n = n + (new.state < 2) - (old.state < 2) WHERE name = 'runs queued';
END;
CREATE TRIGGER run_dropped AFTER DELETE ON runs WHEN old.state < 2 BEGIN
    UPDATE totals SET n = n - 1 WHERE name = 'runs queued';
END;
"""


def connected(path: Path, *, busy_s: float, writes: bool) -> sqlite3.Connection:
    """A connection for the calling thread to the file at ``path``, which is made where ``writes``.

    ``busy_s``: how long to wait for another process that is writing. Raises StoreFailed."""
    if sqlite3.sqlite_version_info < _SQLITE_MIN:
        raise StoreFailed(f"executions need SQLite 3.24, not {sqlite3.sqlite_version}")
    connection: sqlite3.Connection | None = None
    try:
        if writes:
            # Only for the gateway's own user: it holds what clients sent. Its log and its index
            # get the same permissions from SQLite.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            path, timeout=busy_s, isolation_level=None, cached_statements=200
        )
        _set_up(connection, busy_s)
        if writes:
            _make_tables(connection, path)
            connection.execute("PRAGMA busy_timeout = 0")  # ``begin`` waits
        else:
            connection.execute("PRAGMA query_only = ON")
    except (sqlite3.Error, OSError) as error:
        if connection is not None:
            connection.close()
        raise StoreFailed(
            f"{path}: {_reason(error)}", code=translated(error).code, retry_after_s=1
        ) from error
    except StoreFailed:
        if connection is not None:
            connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection, busy_s: float) -> None:
    # What a rolled-back savepoint saves must not go to a file of its own, which nobody overwrites.
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA secure_delete = ON")
    # SQLite itself does not wait here for others that are doing the same.
    _patiently(connection, "PRAGMA journal_mode = WAL", busy_s)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}").fetchall()


def begin(connection: sqlite3.Connection, busy_s: float) -> None:
    """Begin to write, as soon as no other process does."""
    _patiently(connection, "BEGIN IMMEDIATE", busy_s)


def _patiently(connection: sqlite3.Connection, statement: str, busy_s: float) -> None:
    give_up_at = monotonic() + busy_s
    while True:
        try:
            connection.execute(statement).fetchall()
        except sqlite3.OperationalError as error:
            if not locked(error) or monotonic() > give_up_at:
                raise
            sleep(_AGAIN_S)
        else:
            return


def _make_tables(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != _APPLICATION:
        raise StoreFailed(f"{path}: this is the database of another program")
    if version > _VERSION:
        raise StoreFailed(f"{path}: this was written by a later version of the gateway")
    if not tables:
        for statement in _statements(_SCHEMA):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")


def _statements(script: str) -> list[str]:
    """The statements of a script one by one: ``executescript`` would commit before them."""
    found: list[str] = []
    begun = ""
    for line in script.splitlines(keepends=True):
        begun += line
        if sqlite3.complete_statement(begun):
            found.append(begun)
            begun = ""
    return found


def translated(error: Exception) -> StoreFailed:
    """What an error of SQLite means for whoever asked. Its message names no file."""
    code = Code.STORE_FULL if _full(error) else Code.STORE_UNAVAILABLE
    return StoreFailed(f"the store of executions: {_reason(error)}", code=code, retry_after_s=1)


def locked(error: Exception) -> bool:
    """Whether another process was writing all the time."""
    return _is(error, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _full(error: Exception) -> bool:
    # A disk that is full says so in plain words; a quota, or a limit on the size of files, comes as
    # an error of the writing itself, as does the growing of the index that all processes share.
    extended = getattr(error, "sqlite_errorcode", 0)
    return _is(error, sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG) or extended in (
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_SHMSIZE,
    )


def _reason(error: Exception) -> str:
    if locked(error):
        return "another process has locked the database"
    if _full(error):
        return "there is no room left to write to"
    if _is(error, sqlite3.SQLITE_NOTADB):
        return "this is no database"
    if _is(error, sqlite3.SQLITE_CORRUPT):
        return "the database is damaged"
    if _is(error, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return f"the database cannot be written to ({error})"
    if isinstance(error, OSError):
        return error.strerror or "the file cannot be opened"
    return str(error)


def _is(error: Exception, *codes: int) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in codes
