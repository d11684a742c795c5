"""Waiting for tasks that must not be left behind.

Owns: that nobody stops waiting because of being cancelled.
Does not know: what the tasks do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence


async def all_done(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until all ``tasks``, which are ending, have ended.

    Who is cancelled meanwhile, and maybe more than once, is cancelled afterwards: nothing is left
    behind. A fault of a task's goes to the loop's exception handler.
    """
    cancelled: asyncio.CancelledError | None = None
    while waiting := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(waiting)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in tasks:
        if not task.cancelled() and (fault := task.exception()) is not None:
            # The gateway's own fault, but no reason to spoil an answer that goes on.
            context = {"message": "closing a call failed", "exception": fault, "task": task}
            task.get_loop().call_exception_handler(context)
    if cancelled is not None:
        raise cancelled
