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
from contextlib import suppress
from secrets import token_hex
from typing import Any, Final

from gateway.errors import StoreFailed
from gateway.executions import redis_scripts as scripts
from gateway.executions.records import Key
from gateway.executions.redis_forms import Argument, name_of
from gateway.executions.redis_scripts import Script
from gateway.executions.redis_wire import Unsure, Wire

#: How long to wait before undoing is tried again; and how long closing waits for it, seconds.
_AGAIN_S: Final = 0.5
_UNDONE_S: Final = 2.0


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

    def _named(self, kind: str, key: Key) -> str:
        return f"{self._prefix}{kind}:{name_of(key)}"

    async def _taken(self, script: Script, holder: str, *arguments: Argument) -> Any:
        """The answer to what puts something into ``holder``'s hands; or nothing is there."""
        ticket = token_hex(8)
        try:
            return await asyncio.shield(self._script(script, holder, ticket, *arguments))
        except (Unsure, asyncio.CancelledError):
            self._doubtful.append((holder, ticket))
            if self._undoing is None:
                self._undoing = asyncio.create_task(self._undo())
            raise

    async def _undo(self) -> None:
        while self._doubtful:
            try:
                await self._script(scripts.UNDO, *self._doubtful[0])
            except StoreFailed:
                await asyncio.sleep(_AGAIN_S)
            else:
                self._doubtful.popleft()
        self._undoing = None

    async def _close(self) -> None:
        """Let go of the connections, after what was asked for before."""
        if self._undoing is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._undoing, _UNDONE_S)
        await self._wire.close()
