"""The event loop of a process that serves.

uvloop's, because its transports and timers are compiled: a small request costs a third less than on
asyncio's own.

Owns: which loop runs, and that a collection of garbage looks at what is young only.
Does not know: what runs in it.
"""

from __future__ import annotations

import gc
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import uvloop

T = TypeVar("T")

#: A request makes hundreds of objects and lets go of nearly all: looking for those in knots after
#: every 700, as Python does left to itself, finds what runs and nothing to free.
_YOUNG: Final = 50_000


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end in a loop of its own, and return what it returns."""
    return uvloop.run(main)


def settle() -> None:
    """What was made to get ready will not be garbage before the process ends: from now on, no
    collection looks at it, and those that look at the young wait until there are many."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
