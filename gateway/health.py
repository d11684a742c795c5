"""Which upstreams answered lately.

Owns: what is known of each upstream's last answer, the asking where that is too long ago, and the
asking at regular intervals where an upstream's kind is made for it.
Does not know: what readiness is used for, what else follows from an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from gateway import logs
from gateway.errors import GatewayError, UpstreamFailed
from gateway.upstreams.base import Upstream

#: How long an answer counts as lately, and how long an upstream may take to give one, seconds.
LATELY_S: Final = 10.0
PROBE_S: Final = 3.0


class Health:
    """The last word on one upstream, from traffic and from probes.

    Args:
        clock: monotonic seconds.
        check_every_s: it is asked so often by ``keep_asking``; then what that heard is relied on,
            good or bad. Else a bad word, or an old one, leads to a question when it matters.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        clock: Callable[[], float],
        check_every_s: float | None = None,
    ) -> None:
        self.name = upstream.name
        self._upstream = upstream
        self._clock = clock
        self._known_s = None if check_every_s is None else check_every_s + PROBE_S
        self._heard = float("-inf")
        self._failure: str | None = None
        self._probe: asyncio.Task[None] | None = None

    def saw(self, error: GatewayError | None) -> None:
        """Note the end of a call. An error that the request itself brought on is an answer too."""
        self._heard = self._clock()
        if error is None:
            self._failure = None
            return
        good = isinstance(error, UpstreamFailed) and error.alive
        self._failure = None if good else error.message

    @property
    def status(self) -> bool | None:
        """Whether its last answer was good; ``None`` where there was none yet."""
        return None if self._heard == float("-inf") else self._failure is None

    async def failure(self) -> str | None:
        """What is wrong with it where it does not answer; ``None``: nothing."""
        known_s = self._known_s
        if known_s is None:
            known_s = LATELY_S if self._failure is None else -1.0  # a bad word is doubted at once
        if self._clock() - self._heard > known_s:
            await asyncio.shield(self._asked())
        return self._failure

    def _asked(self) -> asyncio.Task[None]:
        """One question at a time, however many want to know."""
        if self._probe is None:
            self._probe = asyncio.create_task(self._ask())
        return self._probe

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(PROBE_S):
                await self._upstream.probe()
        except TimeoutError:
            self.saw(UpstreamFailed(f"upstream {self.name}: no answer within {PROBE_S:g} s"))
        except GatewayError as error:
            self.saw(error)
        else:
            self.saw(None)
        finally:
            self._probe = None

    async def close(self) -> None:
        """End what is being asked."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)


class Readiness:
    """Whether those upstreams answer that a configuration cannot do without."""

    def __init__(self, required: Iterable[Health]) -> None:
        self._required = sorted(required, key=lambda health: health.name)

    async def failures(self) -> dict[str, str]:
        """What is wrong with each that does not answer, by its name; empty: all do."""
        found = await asyncio.gather(*(health.failure() for health in self._required))
        return {
            health.name: failure
            for health, failure in zip(self._required, found, strict=True)
            if failure is not None
        }


async def keep_asking(check: Callable[[], Awaitable[None]], every_s: float) -> None:
    """Await ``check`` now and then every ``every_s`` seconds, until cancelled."""
    while True:
        try:
            await check()
        except Exception:  # noqa: BLE001  logged
            # A fault in one check must not end the checks: nothing else would notice a recovery.
            logs.events.exception("a health check failed in the gateway")
        await asyncio.sleep(every_s)
