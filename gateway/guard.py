"""One upstream, and what keeps its calls steady.

Owns: the order of things in a call: breaker, turn, attempt under its deadlines, retry; what each
attempt says of the upstream to breaker, health, latency and metrics.
Does not know: layers, policies, transforms, who is calling.
"""

from __future__ import annotations

import asyncio
import random as randomness
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, TypeVar, cast

from gateway import logs
from gateway.admission import Admission, Refused
from gateway.alarms import Alarms
from gateway.attempt import Attempt, Fate, Measures, Receiver, Watched
from gateway.breaker import Breaker, State, Turn
from gateway.budget import CallBudget, RetryBudget, backoff
from gateway.deadlines import Deadlines
from gateway.errors import (
    Code,
    GatewayError,
    Overloaded,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.health import PROBE_S, Health
from gateway.latency import Latency
from gateway.metrics import Metrics
from gateway.model import Event
from gateway.sections import UpstreamConfig
from gateway.tracing_attempt import AttemptSpans, carried
from gateway.upstreams.base import Call, Pushing, Upstream

__all__ = ["Deadlines", "Fate", "Guard"]

T = TypeVar("T")
#: What an attempt gives: its one event, or nothing.
E = TypeVar("E", bound=Event | None)

#: When to come back is not known where a queue is full; soon, for calls are short.
_RETRY_AFTER_S: Final = 1.0
#: What an upstream that nothing is known of is taken for once it has a call to answer, seconds.
_UNKNOWN_S: Final = 1.0


class Guard:
    """One upstream with what keeps its calls steady; lives as long as the upstream.

    Args:
        upstream: what is called.
        section: its part of the configuration.
        clock: the running loop's time, seconds.
        random: where the jitter of retries comes from.
    """

    def __init__(
        self,
        upstream: Upstream,
        section: UpstreamConfig,
        *,
        metrics: Metrics,
        health: Health,
        clock: Callable[[], float],
        random: randomness.Random,
    ) -> None:
        self.upstream = upstream
        self.name = upstream.name
        self._retries = section.retries
        repeat_broken = section.retries.repeat_broken
        self._repeat_broken = section.kind == "triton" if repeat_broken is None else repeat_broken
        self._rest_s = section.breaker.open_s
        self._health = health
        self.clock = clock
        self.alarms = Alarms()
        self._random = random
        self.breaker = Breaker(**section.breaker.model_dump())
        self.admission = Admission(**section.concurrency.model_dump())
        self._budget = RetryBudget(section.retries.budget)
        self.latency = Latency()
        self._shunned_until = float("-inf")
        self._left_alone = False
        self.measures = Measures(metrics, upstream)
        self.traces = AttemptSpans(upstream, section.url)

    async def stream(self, call: Call, deadlines: Deadlines, fate: Fate) -> AsyncGenerator[Event]:
        """The upstream's events under the deadlines. Closing this closes the work upstream.

        A call that fails before its first event is made again where that is safe, within
        ``retries`` and the time there is.

        Raises:
            UpstreamFailed: also where it is left alone for now (``UPSTREAM_UNAVAILABLE``).
            UpstreamTimeout: naming the limit that ran out.
            Overloaded: too many calls run on it and wait already.
            GatewayError: what ``Upstream.stream`` raises.
        """
        failure: GatewayError | None = None
        by = float("inf")
        budget = self._budget.begin()
        try:
            while True:
                turn = self.breaker.ordinary
                if turn is None or not self.admission.take():
                    turn = await self._admitted(deadlines, by, failure)
                attempt = Attempt(self, turn, deadlines, by, fate)
                by = attempt.watch.first_by
                asked = call if call.trace is None else self._traced(call, attempt, budget)
                try:
                    with attempt:
                        stream = cast("AsyncGenerator[Event]", self.upstream.stream(asked))
                        async with aclosing(stream), aclosing(attempt.events(stream)) as events:
                            async for event in events:
                                yield event
                    return
                except GatewayError as error:
                    wait_s = self._retry_in(error, attempt, budget, deadlines.by(by))
                    if wait_s is None:
                        raise
                    failure = error
                await asyncio.sleep(wait_s)
        finally:
            budget.end()
            failure = None  # its traceback holds this frame

    def call(self, call: Call, deadlines: Deadlines, fate: Fate) -> Awaitable[Event]:
        """As ``stream``, for a call that is not streamed: its one event."""
        return self._attempts(self._call, call, deadlines, fate)

    def _call(self, call: Call, _: Attempt) -> Awaitable[Event]:
        return self.upstream.call(call)

    def relay(
        self, upstream: Pushing, call: Call, deadlines: Deadlines, receiver: Receiver
    ) -> Awaitable[None]:
        """As ``stream``, with the events pushed to ``receiver`` where they are read. ``upstream``
        is the guard's own. While the receiver holds its source back, no limit counts."""
        # Open streams wait here by the thousand, so each coroutine that only awaits another counts.
        return self._attempts(
            lambda call, attempt: upstream.relay(call, Watched(attempt, self.clock, receiver)),
            call,
            deadlines,
            Fate(),
        )

    async def _attempts(
        self,
        once: Callable[[Call, Attempt], Awaitable[E]],
        call: Call,
        deadlines: Deadlines,
        fate: Fate,
    ) -> E:
        """``once``, and once more where that is safe, as ``stream`` has it. Gives the event that it
        gives, if it does."""
        failure: GatewayError | None = None
        by = float("inf")
        budget = self._budget.begin()
        try:
            while True:
                turn = self.breaker.ordinary
                if turn is None or not self.admission.take():
                    turn = await self._admitted(deadlines, by, failure)
                attempt = Attempt(self, turn, deadlines, by, fate)
                watch = attempt.watch
                by = watch.first_by
                asked = call if call.trace is None else self._traced(call, attempt, budget)
                try:
                    with attempt:
                        watch.begin()
                        try:
                            event = await once(asked, attempt)
                            if event is not None:
                                attempt.heard(event)
                            return event
                        except asyncio.CancelledError as error:
                            if watch.ran_out():
                                raise watch.timeout() from error
                            raise
                        finally:
                            watch.end()
                except GatewayError as error:
                    wait_s = self._retry_in(error, attempt, budget, deadlines.by(by))
                    if wait_s is None:
                        raise
                    failure = error
                await asyncio.sleep(wait_s)
        finally:
            budget.end()
            failure = None  # its traceback holds this frame

    def _traced(self, call: Call, attempt: Attempt, budget: CallBudget) -> Call:
        """``call`` as ``attempt`` makes it, which is a span of its own."""
        attempt.span = self.traces.attempt(call, budget.retries)
        return carried(call, attempt.span)

    async def ask(self, answer: Awaitable[T], limit_s: float) -> T:
        """A question to the upstream that is not a run: bounded, and noted for its health.

        Raises:
            UpstreamTimeout: after ``limit_s`` seconds; and what the question raises.
        """
        try:
            async with asyncio.timeout(limit_s):
                result = await answer
        except TimeoutError as error:
            failure = UpstreamTimeout(
                f"upstream {self.name}: no answer within {limit_s:g} s (first_event_s)"
            )
            self.saw(failure)
            raise failure from error
        except GatewayError as error:
            self.saw(error)
            raise
        self.saw(None)
        return result

    @property
    def answers(self) -> bool | None:
        """Whether its last answer was good; ``None``: there was none yet."""
        return self._health.status

    def available(self) -> bool:
        """Whether a call is likely to be answered: the breaker would let it through, and the last
        word on the upstream is not a failure of just now."""
        now = self.clock()
        if not self.breaker.admits(now):
            return False
        # Where nothing else asks after it, it is the calls that find out that it is back: so it is
        # left out for a while, not for good.
        return now >= self._shunned_until or self.answers is not False

    def load(self) -> float:
        """Live time to the first content times the calls that there would be with one more; 0 for
        an upstream that was never tried."""
        calls = self.admission.running + self.admission.waiting
        average_s = self.latency.average_s(self.clock())
        if average_s is None:
            average_s = _UNKNOWN_S if calls else 0.0
        return average_s * (calls + 1)

    def p95_s(self) -> float | None:
        """Seconds within which 95 of 100 of the last calls had their first content; ``None``: there
        were fewer than 20."""
        return self.latency.p95_s()

    async def check(self, limit_s: float = PROBE_S) -> None:
        """Ask the upstream whether it is there, and note what it says. Where the breaker is open
        and the answer is good, the next call is let through at once."""
        try:
            async with asyncio.timeout(limit_s):
                await self.upstream.probe()
        except TimeoutError:
            self.saw(UpstreamFailed(f"upstream {self.name}: no answer within {limit_s:g} s"))
        except GatewayError as error:
            self.saw(error)
        else:
            self.saw(None)
            self.breaker.hasten(self.clock())

    def saw(self, error: GatewayError | None) -> None:
        """Note what the upstream answered, or how it failed."""
        self._health.saw(error)
        if error is None:
            self.measures.up(True)
            return
        good = isinstance(error, UpstreamFailed) and error.alive
        if not good:
            self._shunned_until = self.clock() + self._rest_s
        self.measures.up(good)

    def show_breaker(self, error: BaseException | None) -> None:
        """Show the breaker's state; where it has just opened or closed, the log says so, and
        ``error`` is what opened it."""
        if self.breaker.ordinary is not None and not self._left_alone:
            self.measures.breaker.value = State.CLOSED  # as nearly always
            return
        state = self.breaker.state
        self.measures.breaker.value = state
        if (state is not State.CLOSED) is self._left_alone:
            return
        self._left_alone = not self._left_alone
        fields: dict[str, object] = {"upstream": self.name}
        if self._left_alone:
            fields |= {"open_s": self._rest_s, "error": getattr(error, "message", None)}
            logs.events.warning(
                "upstream left alone: it failed too often", extra={"fields": fields}
            )
        else:
            logs.events.info("upstream answers again", extra={"fields": fields})

    async def _admitted(
        self, deadlines: Deadlines, by: float, failure: GatewayError | None
    ) -> Turn:
        """As ``_awaited``; what is refused to a call that is made again is told as the ``failure``
        of its attempt before."""
        try:
            return await self._awaited(deadlines, by)
        except GatewayError as refusal:
            if failure is None:
                raise
            raise failure from refusal
        finally:
            failure = None  # its traceback holds this frame

    async def _awaited(self, deadlines: Deadlines, by: float) -> Turn:
        """Leave of the breaker, and a slot; waits for one until ``by`` at most."""
        if not self.breaker.admits(self.clock()):
            raise self._resting()
        place = self.admission.enter()
        if isinstance(place, Refused):
            raise self._overloaded(
                place, f"too many calls wait for it already ({self.admission.waiting})"
            )
        if place is not None:
            began = self.clock()
            self.measures.waiting.inc()
            try:
                came = await self.admission.wait(place, deadlines.by(by))
            finally:
                self.measures.waiting.dec()
            if not came:
                what = f"no call ended within the {self.clock() - began:.3g} s that this one waited"
                raise self._overloaded(Refused.WAIT, what)
        turn = self.breaker.take(self.clock())
        if turn is None:  # it opened while the call waited
            self.admission.leave()
            raise self._resting()
        return turn

    def _overloaded(self, reason: Refused, what: str) -> Overloaded:
        self.measures.refused(reason)
        return Overloaded(f"upstream {self.name}: {what}", retry_after_s=_RETRY_AFTER_S)

    def _resting(self) -> UpstreamFailed:
        self.measures.refused(Refused.BREAKER)
        rest_s = self.breaker.rest_s(self.clock())
        return UpstreamFailed(
            f"upstream {self.name}: has failed too often, and is tried again in {rest_s:.3g} s",
            code=Code.UPSTREAM_UNAVAILABLE,
            retry_after_s=rest_s,
        )

    def _retry_in(
        self, error: GatewayError, attempt: Attempt, budget: CallBudget, until: float
    ) -> float | None:
        """Seconds after which the call is made again; ``None``: it is not."""
        bounds = self._retries
        if not attempt.watch.silent or budget.retries >= bounds.retries_max:
            return None
        if not self._repeatable(error):
            return None
        wait_s = backoff(
            budget.retries,
            base_s=bounds.backoff_s,
            max_s=bounds.backoff_s_max,
            retry_after_s=error.retry_after_s,
            draw=self._random.random(),
        )
        if wait_s is None or self.clock() + wait_s >= until or not budget.retry():
            return None
        self.measures.retries.inc()
        return wait_s

    def _repeatable(self, error: GatewayError) -> bool:
        """Whether the upstream has not begun to run the call, or may run it twice."""
        if not isinstance(error, UpstreamFailed):
            return False
        if error.code in (Code.UPSTREAM_UNREACHABLE, Code.UPSTREAM_BUSY):
            return True
        return self._repeat_broken and error.status >= 500 and not error.alive
