"""Asking Redis: what waits at the same time goes in one writing and is answered in one reading.

A caller waits for its answer and for nothing else: it never holds a connection, so that giving it
up at any moment leaves no connection behind with an answer that nobody reads.

Owns: the connections for calls, how long they may take, which failures are whose.
Does not know: what is asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)

from gateway.errors import Code, StoreFailed
from gateway.executions.redis_scripts import Script

#: What failures call the Redis of most.
EXECUTIONS: Final = "the store of executions"
#: Seconds for a connection to be made, and for the answers to one writing; longer by what it takes
#: to send it at the slowest.
CONNECT_S: Final = 2.0
ANSWER_S: Final = 5.0
_BYTES_PER_S: Final = 1024 * 1024
#: So many connections, and so much in one writing: what is larger goes alone, and holds up nobody.
_CONNECTIONS: Final = 6
_CALLS: Final = 128
_BYTES: Final = 256 * 1024

Argument = bytes | memoryview | str | int | float
#: What may be wrong between here and there. redis-py's own timeouts are RedisErrors.
BROKEN: Final = (RedisError, OSError, TimeoutError)


class Unsure(StoreFailed):
    """It may have happened, may not have, and may still happen: no answer came."""


class _Call:
    """Something asked, and who waits for the answer."""

    __slots__ = ("answer", "script", "sent", "size", "words")

    def __init__(
        self, words: tuple[Argument, ...], script: Script | None, answer: asyncio.Future[Any]
    ) -> None:
        self.words = words
        self.script = script
        self.answer = answer
        self.sent = False
        self.size = sum(len(word) for word in words if isinstance(word, (bytes, memoryview, str)))


class Wire:
    """Calls of one Redis. Use it in one event loop only.

    Args:
        url: ``redis://HOST:PORT/NUMBER``, or ``rediss://`` with TLS.
        prefix: the first argument of every script.
        what: what failures call that Redis.
        answer_s: seconds for the answers to one writing, a connection included.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str | None,
        password: str | None,
        prefix: str,
        what: str = EXECUTIONS,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._prefix = prefix
        self._what = what
        self._answer_s = answer_s
        self._pool = ConnectionPool.from_url(
            url,
            username=username,
            password=password,
            protocol=2,
            driver_info=None,
            retry=Retry(NoBackoff(), 0),  # who asks is told; what is asked again is its to say
            socket_connect_timeout=CONNECT_S,
            socket_timeout=None,  # a writing with all its answers has a limit as a whole
            max_connections=_CONNECTIONS + 1,
        )
        self._waiting: deque[_Call] = deque()
        self._carriers: set[asyncio.Task[None]] = set()
        self._carrying = 0  # those of them that look at what waits once more
        self._closed = False

    @property
    def address(self) -> str:
        """Where the server is, without what opens it."""
        where = self._pool.connection_kwargs
        return f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"

    def connection(self) -> Connection:
        """A connection of its own, not made yet, for whoever only listens."""
        made: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        return made

    def script(self, script: Script, *arguments: Argument) -> asyncio.Future[Any]:
        """Run a script; the prefix is put before ``arguments``. Fails as ``command`` does."""
        return self._asked((b"EVALSHA", script.sha, 0, self._prefix, *arguments), script)

    def command(self, *words: Argument) -> asyncio.Future[Any]:
        """Ask for something. Texts in the answer are bytes.

        Raises:
            Unsure: no answer came in time, and it may have been done.
            StoreFailed: it was not done, because it cannot be reached, is full or refuses.
        """
        return self._asked(words, None)

    def _asked(self, words: tuple[Argument, ...], script: Script | None) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._closed:
            answer.set_exception(translated(ConnectionError("closed"), what=self._what))
            return answer
        self._ask(_Call(words, script, answer))
        return answer

    def _ask(self, call: _Call) -> None:
        self._waiting.append(call)
        if self._carrying < _CONNECTIONS:
            self._carrying += 1
            carrier = asyncio.create_task(self._carry())
            self._carriers.add(carrier)
            carrier.add_done_callback(self._carriers.discard)

    async def _carry(self) -> None:
        """Send what waits, as much as goes together, until nothing waits."""
        try:
            while self._waiting:
                calls, size = self._together()
                try:
                    async with asyncio.timeout(self._answer_s + size / _BYTES_PER_S):
                        await self._exchange(calls)
                except BaseException as error:
                    self._fail(calls, error)
                    if not isinstance(error, BROKEN):
                        raise
        finally:
            self._carrying -= 1

    def _together(self) -> tuple[list[_Call], int]:
        """What goes next, and how many bytes that is."""
        waiting = self._waiting
        calls = [waiting.popleft()]
        size = calls[0].size
        while waiting and len(calls) < _CALLS and size + waiting[0].size <= _BYTES:
            calls.append(waiting.popleft())
            size += calls[-1].size
        return calls, size

    async def _exchange(self, calls: list[_Call]) -> None:
        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        keep = False
        try:
            packed = connection.pack_commands([call.words for call in calls])
            for call in calls:
                call.sent = True
            for some in _little_by_little(packed):
                await connection.send_packed_command(some, check_health=False)
            passing = False
            for call in calls:
                try:
                    answer = await connection.read_response()
                except ResponseError as error:
                    self._refused(call, error)
                    passing = passing or _is_passing(error)
                else:
                    if not call.answer.done():
                        call.answer.set_result(answer)
            keep = not passing  # a name may lead to another server by now
        finally:
            if not keep:
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    def _refused(self, call: _Call, error: ResponseError) -> None:
        if isinstance(error, NoScriptError) and call.script is not None:
            # The server was started anew, and gets the text once more.
            words = (b"EVAL", call.script.text, *call.words[2:])
            self._ask(_Call(words, None, call.answer))
        else:
            self._failed(call, error)

    def _failed(self, call: _Call, error: BaseException) -> None:
        if not call.answer.done():
            unsure = call.sent and not isinstance(error, ResponseError)
            call.answer.set_exception(translated(error, unsure=unsure, what=self._what))
            call.answer.exception()  # nobody may be waiting any more, which is no fault

    def _fail(self, calls: list[_Call], error: BaseException) -> None:
        """Tell who waits: also those behind, who would only wait for the same once more."""
        for call in (*calls, *self._waiting):
            self._failed(call, error)
        self._waiting.clear()

    async def close(self) -> None:
        """Let go of the connections, after what was asked for before."""
        while self._carriers:
            await asyncio.wait(self._carriers)
        self._closed = True
        await self._pool.aclose()


def _little_by_little(packed: list[bytes]) -> Iterator[list[bytes]]:
    """What is to be sent, so that little of it waits in memory once more."""
    some: list[bytes] = []
    size = 0
    for each in packed:
        some.append(each)
        size += len(each)
        if size > _BYTES:
            yield some
            some, size = [], 0
    yield some


def translated(
    error: BaseException, *, unsure: bool = False, what: str = EXECUTIONS
) -> StoreFailed:
    """A failure as callers are told of it, whom it does not concern where the server is."""
    text = str(error)
    code, retry_after_s = Code.STORE_UNAVAILABLE, None
    if isinstance(error, OutOfMemoryError) or "OOM command" in text or "MISCONF" in text:
        fault, code = "can take no more", Code.STORE_FULL
    elif isinstance(error, AuthenticationError):
        fault = "does not accept the username or password"
    elif isinstance(error, NoPermissionError) or "NOPERM" in text:
        fault = "does not permit its user what is needed"
    elif isinstance(error, ResponseError) and not _is_passing(error):
        fault = "does not do what it is asked; the log of its server may say why"
    else:
        fault, retry_after_s = "cannot be reached", 1
    failed = (Unsure if unsure else StoreFailed)(
        f"{what} {fault}", code=code, retry_after_s=retry_after_s
    )
    failed.__cause__ = error
    return failed


def _is_passing(error: ResponseError) -> bool:
    """Whether another server answers here soon, or the same one otherwise. What fails within a
    script is told in its error's text."""
    text = f"{error.status_code} {error}"
    return any(word in text for word in ("READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN"))
