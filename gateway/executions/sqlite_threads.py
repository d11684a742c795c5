"""The two threads that a SQLite file is used from: one writes, one reads.

All that waits to be written is written as one transaction: the disk is waited for once, however
many have asked. Whoever asks waits in the loop, which never waits for the disk.

Owns: what is asked, in which order it is done, what becomes of answers that nobody waits for any
more; calls that wait until they can be answered; when the write-ahead log is emptied.
Does not know: any table.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Final, TypeVar

from gateway.errors import StoreFailed
from gateway.executions.records import Key
from gateway.executions.sqlite_file import begin, locked, translated

#: How often another process' writing is looked for, seconds.
_LOOK_S: Final = 0.05
#: What is removed must soon be gone from the log, too: so long after the last call, or so long
#: after the removal where the calls do not end; seconds.
_IDLE_S: Final = 1.0
_ERASE_S: Final = 10.0
#: How long emptying the log may wait for others, which wait as long; it is tried again anyway.
_ERASE_BUSY_MS: Final = 20
_WRITES: Final = 256
_READS: Final = 16

T = TypeVar("T")


@dataclass(slots=True)
class Transaction:
    """What calls write in, and what is to happen when it is written."""

    db: sqlite3.Connection
    #: Executions of which there are news.
    touched: set[Key] = field(default_factory=set)
    #: Whether something was removed that must not be found in the files any more.
    erased: bool = False


#: What is done in a transaction. It raises before it writes, or else not on purpose.
Write = Callable[[Transaction], T]
Read = Callable[[sqlite3.Connection], T]


@dataclass(slots=True, eq=False)
class _Call:
    """One thing asked. ``undo`` makes, of an answer that nobody waits for, what undoes it.
    ``until``: where the answer is None, ask again, until the clock says so."""

    do: Callable[[Any], Any]
    answer: asyncio.Future[Any]
    undo: Callable[[Any], Write[None]] | None = None
    until: float | None = None
    heavy: bool = False


_Outcome = tuple[_Call, Any, Exception | None]


class _HalfDone(Exception):
    """A call has failed after it had written something."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


class _Thread:
    """A thread with a connection of its own, and what it is asked to do."""

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._name = name
        self._connect = connect
        self._asked: SimpleQueue[_Call | None] = SimpleQueue()
        self._open = False

    async def start(self) -> None:
        """Open the connection. Raises StoreFailed."""
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        opened: asyncio.Future[None] = self._loop.create_future()
        # A daemon: where a disk hangs, the process can still end.
        threading.Thread(target=self._run, args=(opened,), name=self._name, daemon=True).start()
        await asyncio.shield(opened)

    async def stop(self) -> None:
        """Close the connection, after everything that was asked before."""
        if self._open:
            self._open = False
            self._asked.put(None)
            await self._ended.wait()

    def _put(self, call: _Call) -> None:
        if self._open:
            self._asked.put(call)
        else:
            call.answer.set_exception(StoreFailed("the store of executions is closed"))

    def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            db = self._connect()
        except Exception as error:  # noqa: BLE001 -- whoever opens is told
            self._tell(self._opened, opened, error)
            return
        self._tell(self._opened, opened, None)
        try:
            self._work(db)
        finally:
            db.close()
            self._tell(self._closed)

    def _opened(self, opened: asyncio.Future[None], error: Exception | None) -> None:
        self._open = error is None
        if error is None:
            opened.set_result(None)
        else:
            opened.set_exception(error)

    def _closed(self) -> None:
        self._open = False
        self._ended.set()
        while calls := self._next(0, 1):  # nobody is there to do it any more
            for call in calls:
                if call is not None and not call.answer.done():
                    self._put(call)

    def _work(self, db: sqlite3.Connection) -> None:
        raise NotImplementedError

    def _next(self, timeout_s: float | None, most: int) -> list[_Call | None]:
        """What was asked, as far as the end; waits for the first, so many seconds if need be."""
        found: list[_Call | None] = []
        with suppress(Empty):
            found.append(self._asked.get(timeout=timeout_s))
            while len(found) < most and found[-1] is not None:
                found.append(self._asked.get_nowait())
        return found

    def _tell(self, what: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended without closing this: nobody is left
            self._loop.call_soon_threadsafe(what, *args)


class Reader(_Thread):
    """The thread that reads; large files do not hold up what is written meanwhile."""

    def ask(self, read: Read[T]) -> asyncio.Future[T]:
        """Have something read. Raises StoreFailed."""
        answer: asyncio.Future[T] = self._loop.create_future()
        self._put(_Call(read, answer))
        return answer

    def _work(self, db: sqlite3.Connection) -> None:
        while True:
            outcomes: list[_Outcome] = []
            for call in self._next(None, _READS):
                if call is None:
                    self._tell(_answer, outcomes)
                    return
                if not call.answer.cancelled():
                    outcomes.append(_read(db, call))
            self._tell(_answer, outcomes)


class Writer(_Thread):
    """The thread that writes.

    Args:
        busy_s: how long to wait for another process that is writing, seconds.
        worth: whether calls that wait may be answered now.
        news: called in the loop with the executions that were touched; with None where another
            process has written, who knows what.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], sqlite3.Connection],
        busy_s: float,
        worth: Read[bool],
        news: Callable[[set[Key] | None], None],
    ) -> None:
        super().__init__(name, connect)
        self._busy_s = busy_s
        self._worth = worth
        self._news = news
        self._waiting: list[_Call] = []
        # What takes long to write comes after what does not, each in a transaction of its own.
        self._heavy: deque[_Call] = deque()
        self._version = 0
        self._looked_at = self._asked_at = monotonic()
        # A process that ended at once may have left in the log what it had removed.
        self._erase_at: float | None = self._looked_at + _ERASE_S

    def ask(
        self,
        write: Write[T],
        *,
        undo: Callable[[T], Write[None]] | None = None,
        heavy: bool = False,
    ) -> asyncio.Future[T]:
        """Have something written. Raises StoreFailed, and what ``write`` raises."""
        answer: asyncio.Future[T] = self._loop.create_future()
        self._put(_Call(write, answer, undo, heavy=heavy))
        return answer

    def ask_until(
        self, write: Write[T | None], wait_s: float, undo: Callable[[T], Write[None]]
    ) -> asyncio.Future[T | None]:
        """Have something written as soon as ``write`` finds something to write; ``None``: for
        ``wait_s`` seconds it did not. Who asked first is answered first. Raises StoreFailed."""
        answer: asyncio.Future[T | None] = self._loop.create_future()
        self._put(_Call(write, answer, undo, until=monotonic() + wait_s))
        return answer

    async def handed(self, answer: asyncio.Future[T], undo: Callable[[T], Write[None]]) -> T:
        """The answer; it is undone also where whoever waits is cancelled just as it comes."""
        try:
            return await answer
        except asyncio.CancelledError:
            if not answer.cancelled() and answer.exception() is None and answer.result():
                self._undo(undo(answer.result()))
            raise

    async def stop(self) -> None:
        """Close the connection, after everything that was asked before, and has to be undone."""
        if self._open:
            with suppress(StoreFailed):
                await self.ask(lambda _: None)
        await super().stop()

    def _work(self, db: sqlite3.Connection) -> None:
        self._foreign(db)
        while True:
            calls = self._next(0 if self._heavy else _LOOK_S, _WRITES)
            closing = bool(calls) and calls[-1] is None
            asked = [call for call in calls if call is not None]
            self._heavy += [call for call in asked if call.heavy]
            waiting = [call for call in asked if call.until is not None]
            self._waiting += waiting
            light = [call for call in asked if not call.heavy and call.until is None]
            if asked:
                self._asked_at = monotonic()
            if light:
                self._write(db, light)
            if self._look(db) or (waiting and not light):
                self._serve_waiting(db)
            self._end_waiting(closing)
            while self._heavy:
                self._write(db, [self._heavy.popleft()])
                if not closing:
                    break
            if closing:
                return
            self._erase(db)

    def _write(self, db: sqlite3.Connection, calls: Sequence[_Call]) -> None:
        """Do all of it as one transaction, and with it what that lets calls that wait do."""
        transaction = Transaction(db)
        try:
            begin(db, self._busy_s)
            wanted = [call for call in calls if not call.answer.cancelled()]
            outcomes = [_written(transaction, call) for call in wanted]
            outcomes += self._answered(transaction)
            db.execute("COMMIT")
        except (sqlite3.Error, _HalfDone) as error:
            with suppress(sqlite3.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            # On a full disk, what is in the log already may be all that takes the room.
            self._erase_at = self._erase_at if locked(error) else monotonic()
            if len(calls) > 1 and not locked(error):
                for call in calls:  # one of them has spoilt it for all
                    self._write(db, [call])
                return
            failed = calls or self._waiting
            outcomes = [(call, None, _explained(error)) for call in failed]
            transaction = Transaction(db)
        self._wait_no_longer(outcomes)
        if transaction.erased and self._erase_at is None:
            self._erase_at = monotonic() + _ERASE_S
        self._tell(self._answer, outcomes, transaction.touched)

    def _answered(self, transaction: Transaction) -> list[_Outcome]:
        """Calls that wait no longer, the first that does ends the search: they all ask the same."""
        outcomes: list[_Outcome] = []
        for call in self._waiting:
            if call.answer.cancelled():
                continue
            outcome = _written(transaction, call)
            if outcome[1] is None and outcome[2] is None:
                break
            outcomes.append(outcome)
        return outcomes

    def _serve_waiting(self, db: sqlite3.Connection) -> None:
        """Answer calls that wait, where nothing else is to be written."""
        if not self._waiting:
            return
        try:
            if not self._worth(db):
                return
        except sqlite3.Error:
            pass  # whoever waits is told of it
        self._write(db, [])

    def _end_waiting(self, closing: bool) -> None:
        now = monotonic()
        ended: list[_Outcome] = [
            (call, None, None)
            for call in self._waiting
            if closing or call.answer.cancelled() or (call.until or 0) <= now
        ]
        if ended:
            self._wait_no_longer(ended)
            self._tell(self._answer, ended, set())

    def _wait_no_longer(self, outcomes: Sequence[_Outcome]) -> None:
        over = {id(call) for call, _, _ in outcomes}
        self._waiting = [call for call in self._waiting if id(call) not in over]

    def _look(self, db: sqlite3.Connection) -> bool:
        """Whether another process has written since the last look, where it is time for one."""
        now = monotonic()
        if now - self._looked_at < _LOOK_S:
            return False
        self._looked_at = now
        if not self._foreign(db):
            return False
        self._tell(self._news, None)
        return True

    def _foreign(self, db: sqlite3.Connection) -> bool:
        before = self._version
        with suppress(sqlite3.Error):  # whoever asks for something is told
            [self._version] = db.execute("PRAGMA data_version").fetchone()
        return self._version != before

    def _erase(self, db: sqlite3.Connection) -> None:
        """Empty the write-ahead log, where it holds what was removed and it is time to."""
        if self._erase_at is None:
            return
        now = monotonic()
        if now < self._erase_at and now - self._asked_at < _IDLE_S:
            return
        busy = True
        with suppress(sqlite3.Error):
            db.execute(f"PRAGMA busy_timeout = {_ERASE_BUSY_MS}").fetchall()
            [busy, _, _] = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        with suppress(sqlite3.Error):
            db.execute("PRAGMA busy_timeout = 0").fetchall()
        self._erase_at = now + _ERASE_S if busy else None
        self._asked_at = now  # if it has to be tried again, then not at once

    def _answer(self, outcomes: Sequence[_Outcome], touched: set[Key]) -> None:
        for call, result, error in outcomes:
            if call.answer.cancelled() and call.undo is not None and result and error is None:
                self._undo(call.undo(result))
        _answer(outcomes)
        if touched:
            self._news(touched)

    def _undo(self, write: Write[None]) -> None:
        self.ask(write).add_done_callback(partial(self._undone, write))

    def _undone(self, write: Write[None], answer: asyncio.Future[None]) -> None:
        if isinstance(answer.exception(), StoreFailed) and self._open:
            self._loop.call_later(_IDLE_S, self._undo, write)


def _written(transaction: Transaction, call: _Call) -> _Outcome:
    before = transaction.db.total_changes
    try:
        return call, call.do(transaction), None
    except sqlite3.Error:
        raise
    except Exception as error:
        if transaction.db.total_changes != before:
            raise _HalfDone(error) from error
        return call, None, error


def _read(db: sqlite3.Connection, call: _Call) -> _Outcome:
    try:
        return call, call.do(db), None
    except Exception as error:  # noqa: BLE001 -- goes to whoever asked
        return call, None, _explained(error)


def _explained(error: Exception) -> Exception:
    """What whoever asked is told."""
    if isinstance(error, _HalfDone):
        return error.cause
    if not isinstance(error, sqlite3.Error):
        return error
    explained = translated(error)
    explained.__cause__ = error
    return explained


def _answer(outcomes: Sequence[_Outcome]) -> None:
    for call, result, error in outcomes:
        if call.answer.done():
            continue
        if error is None:
            call.answer.set_result(result)
        else:
            call.answer.set_exception(error)
