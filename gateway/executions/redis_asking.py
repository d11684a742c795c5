"""Asking for what may stay in somebody's hands.

What a call puts into a holder's hands bears a ticket. Where its answer got lost, or nobody waits
for it any more, what was done under that ticket is undone, and what is still on its way is made
void: nothing stays in the hands of a holder that lives and does not know of it.

Owns: tickets, and the undoing; the names of keys.
Does not know: what is asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice
from secrets import token_hex
from typing import Any, Final, TypeVar

from gateway.errors import StoreFailed
from gateway.executions import redis_scripts as scripts
from gateway.executions.records import Key
from gateway.executions.redis_forms import Argument, name_of
from gateway.executions.redis_scripts import Script
from gateway.executions.redis_wire import Unsure, Wire

T = TypeVar("T")

#: How long to wait before undoing is tried again; and how long closing waits for it, seconds.
_AGAIN_S: Final = 0.2
_UNDONE_S: Final = 2.0
#: How many pieces of what is large are read at once.
_PIECES: Final = 8
#: How many calls are undone at once.
_TOGETHER: Final = 1000


class Asking:
    """What all calls of the store are made with.

    Args:
        url: ``redis://HOST:PORT/NUMBER``, or ``rediss://`` with TLS.
        prefix: what the names of all keys begin with.
    """

    def __init__(
        self, url: str, *, username: str | None, password: str | None, prefix: str
    ) -> None:
        self._prefix = prefix
        self._wire = Wire(url, username=username, password=password, prefix=prefix)
        self._doubtful: deque[tuple[str, str]] = deque()
        self._undoing: asyncio.Task[None] | None = None

    def _script(self, script: Script, *arguments: Argument) -> asyncio.Future[Any]:
        return self._wire.script(script, *arguments)

    def _fields(self, key: Key, *names: str) -> asyncio.Future[Any]:
        return self._wire.command(b"HMGET", self._named("e", key), *names)

    async def _pieces(self, name: str, fields: list[str]) -> list[bytes] | None:
        """The values of a hash's ``fields``, some at a time; ``None``: they are gone."""
        found: list[bytes] = []
        for start in range(0, len(fields), _PIECES):
            some = fields[start : start + _PIECES]
            found += await self._wire.command(b"HMGET", name, *some)
        return None if None in found else found

    def _named(self, kind: str, key: Key) -> str:
        return f"{self._prefix}{kind}:{name_of(key)}"

    async def _taken(
        self,
        script: Script,
        holder: str,
        *arguments: Argument,
        whole: Callable[[Any], Awaitable[T]],
    ) -> T | None:
        """The answer to what puts something into ``holder``'s hands, made ``whole``; or nothing is
        there. ``None``: so says the answer."""
        ticket, sure = token_hex(8), False
        try:
            found = await asyncio.shield(self._script(script, holder, ticket, *arguments))
            sure = True
            return None if found is None else await whole(found)
        except (StoreFailed, asyncio.CancelledError) as error:
            if sure or not isinstance(error, StoreFailed) or isinstance(error, Unsure):
                self._doubtful.append((holder, ticket))
                if self._undoing is None:
                    self._undoing = asyncio.create_task(self._undo())
            raise

    async def _undo(self) -> None:
        while self._doubtful:
            holder = self._doubtful[0][0]
            some = [each for each in islice(self._doubtful, _TOGETHER) if each[0] == holder]
            try:
                await self._script(scripts.UNDO, holder, *(ticket for _, ticket in some))
            except StoreFailed:
                await asyncio.sleep(_AGAIN_S)
            else:
                for each in some:
                    self._doubtful.remove(each)
        self._undoing = None

    async def _close(self) -> None:
        """Let go of the connections, after what was asked for before."""
        if self._undoing is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._undoing, _UNDONE_S)
        await self._wire.close()
