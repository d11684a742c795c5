"""An upstream that does what a script says, in memory, and remembers what became of each call."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from prometheus_client import CollectorRegistry
from pydantic import TypeAdapter

from gateway.guard import Guard
from gateway.health import Health
from gateway.metrics import Metrics
from gateway.model import Delta, Event, Request
from gateway.sections import UpstreamConfig
from gateway.upstreams.base import Call

#: What a call does, step by step: yield an ``Event``, wait so many seconds (a ``float``), or raise
#: an ``Exception``.
Script = Sequence[Any]
#: Longer than any test.
FOREVER = 3600.0
CALL = Call(Request("p", "request-1"), pipeline="p", actor="p")


def piece(text: str, **more: Any) -> Delta:
    """A piece of an actor's text."""
    return Delta("p", text, "0", **more)


class FakeUpstream:
    """Runs ``scripts`` one call after the other, the last one again and again.

    ``opened`` and ``closed`` count its calls; ``probes`` says how each question whether it is there
    ends, the last one for good.
    """

    layered = False
    executes = False

    def __init__(
        self,
        *scripts: Script,
        name: str = "up",
        kind: str = "pupau",
        probes: Sequence[float | Exception | None] = (None,),
    ) -> None:
        self.name = name
        self.kind = kind
        self.scripts = list(scripts)
        self.probes = list(probes)
        self.opened = 0
        self.closed = 0

    @property
    def open(self) -> int:
        """Calls that have begun and not ended."""
        return self.opened - self.closed

    async def stream(self, call: Call) -> AsyncGenerator[Event]:
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self.opened += 1
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            self.closed += 1

    async def call(self, call: Call) -> Event:
        """The last event of the script."""
        last: Event | None = None
        async with aclosing(self.stream(call)) as events:
            async for event in events:
                last = event
        assert last is not None
        return last

    async def definition(self, pipeline: str, request_id: str) -> dict[str, Any]:
        return {"nodes": [], "edges": []}

    async def probe(self) -> None:
        step = self.probes.pop(0) if len(self.probes) > 1 else self.probes[0]
        if isinstance(step, Exception):
            raise step
        if step is not None:
            await asyncio.sleep(step)

    async def close(self) -> None:
        pass


class Clock:
    """A clock that stands until it is moved, or that the loop moves along with its own."""

    def __init__(self) -> None:
        self._moved_s = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self._moved_s

    def forward(self, seconds: float) -> None:
        """Time passes, for the gateway's decisions; no timer goes off by it."""
        self._moved_s += seconds


class Guarded:
    """A guard around a fake upstream, with all that it needs. ``keys``: of its configuration."""

    def __init__(
        self, upstream: FakeUpstream, clock: Callable[[], float] | None = None, **keys: Any
    ) -> None:
        self.upstream = upstream
        self.registry = CollectorRegistry()
        self.clock = clock or asyncio.get_running_loop().time
        self.health = Health(upstream, clock=self.clock)
        url = "grpc://localhost:1" if upstream.kind == "triton" else "http://localhost:1"
        self.guard = Guard(
            upstream,
            TypeAdapter(UpstreamConfig).validate_python(
                {"kind": upstream.kind, "url": url, **keys}
            ),
            metrics=Metrics(self.registry),
            health=self.health,
            clock=self.clock,
            random=random.Random(1),
        )

    def count(self, family: str, **labels: str) -> float | None:
        """A sample of ``gateway_upstream_…`` for this upstream."""
        labels |= {"upstream": self.upstream.name, "kind": self.upstream.kind}
        return self.registry.get_sample_value(f"gateway_upstream_{family}", labels)


async def leftovers() -> list[str]:
    """The tasks other than the current one, once those that are about to end have."""
    for _ in range(5):
        await asyncio.sleep(0)
    return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
