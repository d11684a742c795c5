"""Several scripted upstreams, of which one is taken."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from gateway.errors import (
    GatewayError,
    UpstreamFailed,
)
from gateway.guard import Deadlines
from gateway.model import (
    Event,
    LayerStarted,
)
from gateway.pipeline_sections import Policy
from gateway.policies import Candidate, take
from tests.support.fakes import CALL, FakeUpstream, Guarded, Script, leftovers, piece

POLICIES = [Policy.FALLBACK, Policy.RACE, Policy.HEDGE, Policy.WEIGHTED, Policy.LEAST_BUSY]
STARTED = LayerStarted("0", "Executing layer 0...")
NAMES = "abc"


def failed(name: str, **more: Any) -> UpstreamFailed:
    return UpstreamFailed(f"upstream {name}: broke off", **more)


class Contest:
    """Candidates a, b, c, each with a script, and what became of them."""

    def __init__(
        self,
        scripts: Sequence[Script],
        policy: Policy,
        *,
        weights: Sequence[float] = (1.0, 1.0, 1.0),
        hedge_after_s: float | None = 0.02,
        sticky: str | None = None,
        seed: int = 1,
    ) -> None:
        self.guarded = [
            Guarded(FakeUpstream(script, name=name), retries={"retries_max": 0})
            for name, script in zip(NAMES, scripts, strict=False)
        ]
        self.policy = policy
        self.weights = weights
        self.hedge_after_s = hedge_after_s
        self.sticky = sticky
        self.random = random.Random(seed)
        self.taken: list[str] = []
        self.got: list[Event] = []

    @property
    def opened(self) -> str:
        return "".join(it.upstream.name * it.upstream.opened for it in self.guarded)

    def stream(self) -> AsyncGenerator[Event]:
        def opener(it: Guarded) -> Any:
            return lambda fate: it.guard.stream(CALL, Deadlines(60, 60), fate)

        return take(
            [
                Candidate(it.guard, weight, opener(it))
                for it, weight in zip(self.guarded, self.weights, strict=False)
            ],
            self.policy,
            hedge_after_s=self.hedge_after_s,
            sticky=self.sticky,
            taken=lambda index: self.taken.append(NAMES[index]),
            random=self.random,
            clock=asyncio.get_running_loop().time,
        )

    async def run(self) -> list[Event]:
        async with aclosing(self.stream()) as events:
            async for event in events:
                assert self.taken, "it is told which one was taken before its first event"
                self.got.append(event)
        return self.got

    async def error(self) -> GatewayError:
        with pytest.raises(GatewayError) as info:
            await self.run()
        return info.value

    async def assert_nothing_is_left(self) -> None:
        for it in self.guarded:
            assert it.upstream.open == 0
            assert it.count("running") == it.count("waiting") == 0
            assert it.guard.admission.running == 0
        assert await leftovers() == []

    def ended(self, name: str, outcome: str) -> float | None:
        return self.guarded[NAMES.index(name)].count("requests_total", outcome=outcome)


def says(name: str) -> list[Event]:
    return [STARTED, piece(f"{name}1"), piece(f"{name}2")]
