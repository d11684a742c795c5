"""How much a key may ask for, how much of that it has, and what it is told of it.

Requests are counted in a window that moves: each counts for a minute from its own moment, so that
no minute has more of them than are allowed, wherever it begins. The window moves by tenths of a
second, so it takes the memory of 601 numbers however many requests there are.

Owns: a key's limits; the counts of one process; the head's fields that say how many are left; the
refusal's words.
Does not know: what time it is, which requests there are, what is counted in a Redis
(``limit_redis``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil
from typing import Final, NamedTuple, Protocol

from gateway.errors import Code, RequestRejected

DAY_S: Final = 86_400
#: The window of requests, and the steps that it moves by.
WINDOW_MS: Final = 60_000
STEP_MS: Final = 100
STEPS: Final = WINDOW_MS // STEP_MS
#: Nobody knows when a stream ends: its caller is asked to look again after so many seconds.
STREAM_RETRY_S: Final = 5.0


class Limit(StrEnum):
    """What can be used up: the names of the policies in heads, and values of a metric's label."""

    MINUTE = "minute"
    STREAMS = "streams"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Quota:
    """How much the key named ``key`` may ask for; ``None``: any amount. ``requests`` in any minute,
    ``streams`` open at once, ``bytes`` in a day (UTC)."""

    key: str
    requests: int | None = None
    streams: int | None = None
    bytes: int | None = None
    #: The head's line that tells of them.
    policy: str = field(init=False, default="")

    def __post_init__(self) -> None:
        parts = []
        if self.requests is not None:
            parts.append(f'"{Limit.MINUTE}";q={self.requests};w={WINDOW_MS // 1000}')
        if self.streams is not None:
            parts.append(f'"{Limit.STREAMS}";q={self.streams};qu="concurrent-requests"')
        if self.bytes is not None:
            parts.append(f'"{Limit.DAY}";q={self.bytes};qu="content-bytes";w={DAY_S}')
        object.__setattr__(self, "policy", f"RateLimit-Policy: {', '.join(parts)}\r\n")

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Which limits there are."""
        mosts = (self.requests, self.streams, self.bytes)
        return tuple(limit for limit, most in zip(Limit, mosts, strict=True) if most is not None)


class Usage(NamedTuple):
    """How much of a quota is used, the request included where it is let through.

    ``minute_s``: until more requests fit into the window, or this one where it was refused;
    ``day_s``: until the day ends. Seconds.
    """

    refused: Limit | None
    requests: int
    minute_s: float
    streams: int
    bytes: int
    day_s: float


class Taken(Protocol):
    """What a request has of a quota, or would have had."""

    usage: Usage

    def end(self, size: int) -> None:
        """It has ended, and has moved ``size`` bytes."""
        ...


class Counting(Protocol):
    """Where it is counted what keys ask for."""

    async def take(self, quota: Quota, *, stream: bool) -> Taken | None:
        """Count a request, and a stream until its end, unless there are as many as may be: then
        nothing is counted. ``None``: nobody can know. Raises StoreFailed where that refuses it."""
        ...


def fields(quota: Quota, usage: Usage) -> str:
    """The lines of an answer's head that tell of ``quota`` and of what is left of it."""
    parts = []
    if quota.requests is not None:
        left = max(0, quota.requests - usage.requests)
        after_s = min(ceil(usage.minute_s), WINDOW_MS // 1000)  # a step more would read oddly
        parts.append(f'"{Limit.MINUTE}";r={left};t={after_s}')
    if quota.streams is not None:
        parts.append(f'"{Limit.STREAMS}";r={max(0, quota.streams - usage.streams)}')
    if quota.bytes is not None:
        left = max(0, quota.bytes - usage.bytes)
        parts.append(f'"{Limit.DAY}";r={left};t={ceil(usage.day_s)}')
    return f"{quota.policy}RateLimit: {', '.join(parts)}\r\n"


def refusal(quota: Quota, usage: Usage) -> RequestRejected:
    """What the caller is told whose request went over ``quota``."""
    key = f'the key "{quota.key}"'
    if usage.refused is Limit.MINUTE:
        words = f"{key} may make {quota.requests} requests a minute (requests_per_minute_max)"
        after_s = usage.minute_s
    elif usage.refused is Limit.STREAMS:
        words = f"{key} may have {quota.streams} streams open at once (streams_max)"
        after_s = STREAM_RETRY_S
    else:
        words = f"{key} has moved the {quota.bytes} bytes of this day, UTC (bytes_per_day_max)"
        after_s = usage.day_s
    if usage.refused is not Limit.STREAMS:
        words += f"; try again in {max(1, ceil(after_s))} s"
    return RequestRejected(words, code=Code.RATE_LIMITED, retry_after_s=after_s)


class Tally:
    """What one key has asked for in one process. Times are given by whoever asks: ``now`` in
    seconds that never go back, ``wall`` in Unix seconds."""

    __slots__ = ("_bytes", "_day", "_requests", "_steps", "_streams")

    def __init__(self) -> None:
        #: The steps in which there were requests, and how many; the newest last.
        self._steps: deque[list[int]] = deque()
        self._requests = 0
        self._streams = 0
        self._day = 0
        self._bytes = 0

    def take(self, quota: Quota, *, stream: bool, now: float, wall: float) -> Usage:
        """Count a request, and a stream, unless there are as many as may be."""
        refused: Limit | None = None
        minute_s = 0.0
        if quota.streams is not None and stream and self._streams >= quota.streams:
            refused = Limit.STREAMS
        if quota.requests is not None:
            now_ms = now * 1000
            step = int(now_ms // STEP_MS)
            steps = self._steps
            while steps and steps[0][0] < step - STEPS:
                self._requests -= steps.popleft()[1]
            if self._requests >= quota.requests:
                refused = Limit.MINUTE
                minute_s = self._waits_ms(quota.requests, now_ms) / 1000
            elif steps:
                minute_s = _leaves_ms(steps[0][0], now_ms) / 1000
            else:
                minute_s = _leaves_ms(step, now_ms) / 1000
        if quota.bytes is not None:
            self._turn(wall)
            if self._bytes >= quota.bytes:
                refused = Limit.DAY
        if refused is None:
            if quota.requests is not None:
                self._requests += 1
                if steps and steps[-1][0] == step:
                    steps[-1][1] += 1
                else:
                    steps.append([step, 1])
            if stream:
                self._streams += 1
        day_s = DAY_S - wall % DAY_S
        return Usage(refused, self._requests, minute_s, self._streams, self._bytes, day_s)

    def add(self, size: int, wall: float) -> None:
        """Count ``size`` bytes."""
        self._turn(wall)
        self._bytes += size

    def end_stream(self) -> None:
        """A stream that was counted has ended."""
        self._streams -= 1

    def _turn(self, wall: float) -> None:
        day = int(wall // DAY_S)
        if day != self._day:
            self._day, self._bytes = day, 0

    def _waits_ms(self, requests_max: int, now_ms: float) -> float:
        """How long until one more fits. The limit may have been a higher one before."""
        left, steps = self._requests, iter(self._steps)
        step, count = next(steps)
        while (left := left - count) >= requests_max:
            step, count = next(steps)
        return _leaves_ms(step, now_ms)


def _leaves_ms(step: int, now_ms: float) -> float:
    """How long until what was counted in ``step`` counts no more."""
    return (step + STEPS + 1) * STEP_MS - now_ms


class _TakenHere:
    """See ``Taken``."""

    __slots__ = ("_bytes", "_stream", "_tally", "_wall", "usage")

    def __init__(
        self, usage: Usage, tally: Tally, wall: Callable[[], float], *, stream: bool, bytes: bool
    ) -> None:
        self.usage = usage
        self._tally = tally
        self._wall = wall
        self._stream = stream
        self._bytes = bytes

    def end(self, size: int) -> None:
        if self._stream:
            self._tally.end_stream()
        if self._bytes:
            self._tally.add(size, self._wall())


class Here:
    """Counts for one process alone: see ``Counting``.

    Args:
        tallies: of each key that has limits, by its name.
        clock: monotonic seconds.
        wall: Unix seconds.
    """

    def __init__(
        self,
        tallies: dict[str, Tally],
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._tallies = tallies
        self._clock = clock
        self._wall = wall

    async def take(self, quota: Quota, *, stream: bool) -> Taken:
        """See ``Counting``."""
        tally = self._tallies[quota.key]
        usage = tally.take(quota, stream=stream, now=self._clock(), wall=self._wall())
        return _TakenHere(usage, tally, self._wall, stream=stream, bytes=quota.bytes is not None)
