"""Which inputs of a target are worth keeping: the smallest that between them take every way
through the gateway that any of them takes.

Owns: seeing which ways an input takes, and the choice.
Does not know: files, atheris.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

_GATEWAY = str(Path(__file__).parents[2] / "gateway")
Way = tuple[int, int, int]


def ways(target: Callable[[bytes], None], data: bytes) -> set[Way]:
    """The steps from line to line of the gateway's code that ``data`` takes."""
    taken: set[Way] = set()

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(_GATEWAY):
            return None
        where, last = id(code), 0

        def step(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal last
            if event == "line":
                taken.add((where, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        target(data)
    finally:
        sys.settrace(before)
    return taken


def chosen(target: Callable[[bytes], None], inputs: Iterable[bytes]) -> list[bytes]:
    """The smallest inputs that add a way to those of the ones before them."""
    seen: set[Way] = set()
    kept = []
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        new = ways(target, data) - seen
        if new:
            seen |= new
            kept.append(data)
    return kept
