"""One actor's call on its upstream: its deadlines, its measures, its end.

Owns: the time limits of a call, and the certainty that whatever way a run ends, the work upstream
ends with it. The side-by-side running of a layer's actors belongs here.
Does not know: dialects, transforms, who is calling.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar, cast

from gateway.errors import GatewayError, Outcome, UpstreamTimeout
from gateway.health import Health
from gateway.metrics import Metrics
from gateway.model import Event, Frames
from gateway.upstreams.base import Call, Upstream

T = TypeVar("T")


@dataclass(slots=True)
class Waited:
    """Seconds that a request has spent waiting for others: the gateway's own time is the rest."""

    upstream_s: float = 0.0
    client_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Deadlines:
    """A call's limits in seconds, and ``ends_at``: when the whole run must be over, loop time."""

    first_event_s: float
    idle_s: float
    ends_at: float | None = None
    total_s: float | None = None


class Fanout:
    """Runs actors' calls. One object for the life of the process."""

    def __init__(self, metrics: Metrics, health: Health, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._health = health
        self._clock = clock

    async def stream(
        self, upstream: Upstream, call: Call, deadlines: Deadlines, waited: Waited
    ) -> AsyncGenerator[Event]:
        """The upstream's events under the deadlines. Closing this closes the work upstream.

        Raises:
            UpstreamTimeout: naming the limit that ran out; and what ``Upstream.stream`` raises.
        """
        began = self._clock()
        outcome = Outcome.CLIENT_GONE
        first = True
        failure: GatewayError | None = None
        events = cast("AsyncGenerator[Event]", upstream.stream(call))
        try:
            async with aclosing(events):
                while True:
                    asked = self._clock()
                    try:
                        # Whatever arrives shows that the upstream lives, but only an event is one.
                        at = began + deadlines.first_event_s if first else asked + deadlines.idle_s
                        event = await self._next(events, upstream.name, deadlines, at, first)
                    except StopAsyncIteration:
                        break
                    finally:
                        waited.upstream_s += self._clock() - asked
                    if first and not (isinstance(event, Frames) and event.count == 0):
                        first = False
                        self._metrics.upstream_first_event.labels(
                            upstream.name, upstream.kind
                        ).observe(self._clock() - began)
                    yield event
            outcome = Outcome.COMPLETE
        except GatewayError as error:
            failure, outcome = error, error.outcome
            raise
        except Exception:
            outcome = Outcome.INTERNAL
            raise
        finally:
            labels = (upstream.name, upstream.kind)
            self._metrics.upstream_requests.labels(*labels, outcome).inc()
            self._metrics.upstream_duration.labels(*labels).observe(self._clock() - began)
            if outcome in (Outcome.COMPLETE, Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT):
                self._health.saw(upstream.name, failure)
            failure = None  # its traceback holds this frame

    async def ask(self, upstream: Upstream, answer: Awaitable[T], limit_s: float) -> T:
        """A question to an upstream that is not a run: bounded, and noted for its health.

        Raises:
            UpstreamTimeout: after ``limit_s`` seconds; and what the question raises.
        """
        try:
            async with asyncio.timeout(limit_s):
                result = await answer
        except TimeoutError as error:
            failure = UpstreamTimeout(
                f"upstream {upstream.name}: no answer within {limit_s:g} s (first_event_s)"
            )
            self._health.saw(upstream.name, failure)
            raise failure from error
        except GatewayError as error:
            self._health.saw(upstream.name, error)
            raise
        self._health.saw(upstream.name, None)
        return result

    async def _next(
        self,
        events: AsyncIterator[Event],
        name: str,
        deadlines: Deadlines,
        at: float,
        first: bool,
    ) -> Event:
        limit_s = deadlines.first_event_s if first else deadlines.idle_s
        key = "first_event_s" if first else "idle_s"
        if deadlines.ends_at is not None and deadlines.ends_at < at:
            at, limit_s, key = deadlines.ends_at, deadlines.total_s or 0.0, "total_s"
        try:
            async with asyncio.timeout_at(at):
                return await anext(events)
        except TimeoutError as error:
            what = "was not done" if key == "total_s" else "sent nothing"
            raise UpstreamTimeout(
                f"upstream {name}: {what} within {limit_s:g} s ({key})"
            ) from error
