"""Which upstreams answered lately.

Owns: what is known of each upstream's last answer, and the asking where that is too long ago.
Does not know: what readiness is used for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from gateway.errors import GatewayError, UpstreamFailed
from gateway.upstreams.base import Upstream

#: How long an answer counts as lately, and how long an upstream may take to give one, seconds.
LATELY_S: Final = 10.0
PROBE_S: Final = 3.0


class Health:
    """The last word on each upstream, from traffic and from probes.

    Args:
        upstreams: all of them by name; ``required`` names those that readiness needs.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        *,
        required: frozenset[str],
        clock: Callable[[], float],
    ) -> None:
        self._upstreams = upstreams
        self._required = required
        self._clock = clock
        self._answered: dict[str, float] = {}
        self._failures: dict[str, str] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}

    def saw(self, upstream: str, error: GatewayError | None) -> None:
        """Note the end of a call. An error that the request itself brought on is an answer too."""
        if error is None or (isinstance(error, UpstreamFailed) and error.alive):
            self._answered[upstream] = self._clock()
            self._failures.pop(upstream, None)
        else:
            self._answered.pop(upstream, None)
            self._failures[upstream] = error.message

    def status(self, upstream: str) -> bool | None:
        """Whether its last answer was good; ``None`` where there was none yet."""
        if upstream in self._failures:
            return False
        return True if upstream in self._answered else None

    async def failures(self) -> dict[str, str]:
        """What is wrong with each required upstream that does not answer; empty: all do."""
        stale = [name for name in self._required if not self._lately(name)]
        await asyncio.gather(*(asyncio.shield(self._probe(name)) for name in stale))
        return {
            name: self._failures.get(name, "has not answered")
            for name in sorted(self._required)
            if not self._lately(name)
        }

    def _lately(self, name: str) -> bool:
        answered = self._answered.get(name)
        return answered is not None and self._clock() - answered <= LATELY_S

    def _probe(self, name: str) -> asyncio.Task[None]:
        """One probe of an upstream at a time, however many ask."""
        task = self._probes.get(name)
        if task is None:
            task = self._probes[name] = asyncio.create_task(self._ask(name))
            task.add_done_callback(lambda _: self._probes.pop(name))
        return task

    async def _ask(self, name: str) -> None:
        try:
            async with asyncio.timeout(PROBE_S):
                await self._upstreams[name].probe()
        except TimeoutError:
            self.saw(name, UpstreamFailed(f"upstream {name}: no answer within {PROBE_S:g} s"))
        except GatewayError as error:
            self.saw(name, error)
        else:
            self.saw(name, None)

    async def close(self) -> None:
        """End what is being asked."""
        for task in list(self._probes.values()):
            task.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)
