"""Scenario of several workers: how much more they serve than one.

Owns: what follows from the CPU of each process where there are too few cores to see it directly.
Does not know: how workers share their listener.
"""

from __future__ import annotations

from typing import Any, Final

from tests.bench import answers, calls, peers
from tests.bench.harness import Bench, Call, Take, Turn
from tests.bench.processes import Program

WORKERS: Final = 2
#: Many, as clients of a service are: workers share connections, not requests.
CONNECTIONS: Final = 128
#: Cores on which the throughput of ``WORKERS`` can be seen as it is: theirs, and two for the load.
_CORES_ENOUGH: Final = WORKERS + 2


def _config(workers: int) -> dict[str, Any]:
    return {**calls.CONFIG, "server": {"workers": workers}}


async def workers(bench: Bench) -> None:
    """One worker and two: calls a second that the CPU of the busiest would allow."""
    small = calls.executed(answers.SMALL)
    call = Call(small.requests, small.check, connections=CONNECTIONS)
    one = await bench.start("one worker", peers.gateway(_config(1)))
    enough = len(bench.cores.all) >= _CORES_ENOUGH
    cores = {*bench.cores.all[-WORKERS:]} if enough else {bench.cores.proxy}
    two = await bench.start("two workers", peers.gateway(_config(WORKERS)), cores)
    if not enough:
        bench.note(
            f"{len(bench.cores.all)} cores are too few to see {WORKERS} workers beside their load:"
            " what they could serve is reckoned from the CPU of the busiest, all on one core."
        )
    await bench.in_turns(
        [
            Turn("1 worker", "gateway", _capacity(bench, one, call)),
            Turn(f"{WORKERS} workers", "gateway", _capacity(bench, two, call)),
        ]
    )


def _capacity(bench: Bench, program: Program, call: Call) -> Take:
    async def take() -> dict[str, float]:
        used, seen = await bench.block(program, call)
        return {
            "calls/s of CPU": seen["calls"] / max(used) * 1e6,
            "calls/s": seen["calls"] / seen["seconds"],
            "µs": sum(used) / seen["calls"],
        }

    return take
