"""Scenario of several workers: what it costs them to be workers of one gateway.

What two workers serve is held against what two gateways of one worker serve, each of which listens
on a port of its own and has half of the connections: the same processes on the same cores with the
same load, but with nothing in common. One worker by itself, which has the core to itself, says what
a call costs there; where cores are too few for each worker to have its own, that would be held
against the changing of the processes on one core, which is the system's doing.

Owns: what follows from the CPU of each process where there are too few cores to see it directly.
Does not know: how workers share their listener.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tests.bench import answers, calls, peers
from tests.bench.accounting import cpu_us_each
from tests.bench.harness import Bench, Call, Take, Turn
from tests.bench.processes import Program

WORKERS: Final = 2
#: Many, as clients of a service are: workers share connections, not requests.
CONNECTIONS: Final = 128
#: Rounds, many and short: what else the machine does comes and goes within a second.
ROUNDS: Final = 25
BLOCK_S: Final = 0.25
#: Cores on which the throughput of ``WORKERS`` can be seen as it is: theirs, and two for the load.
_CORES_ENOUGH: Final = WORKERS + 2


def _config(workers: int) -> dict[str, Any]:
    return {**calls.CONFIG, "server": {"workers": workers}}


async def workers(bench: Bench) -> None:
    """Two workers and two gateways: calls a second that the CPU of the busiest would allow."""
    small = calls.executed(answers.SMALL)
    call = Call(small.requests, small.check, connections=CONNECTIONS)
    enough = len(bench.cores.all) >= _CORES_ENOUGH
    cores = {*bench.cores.all[-WORKERS:]} if enough else {bench.cores.proxy}
    alone = [await bench.start(f"alone {n}", peers.gateway(_config(1)), cores) for n in range(2)]
    together = await bench.start("together", peers.gateway(_config(WORKERS)), cores)
    if not enough:
        bench.note(
            f"{len(bench.cores.all)} cores are too few to see {WORKERS} workers beside their load:"
            " what they could serve is reckoned from the CPU of the busiest, all on one core."
        )
    await bench.in_turns(
        [
            Turn("1 worker", "gateway", _capacity(bench, alone[:1], call)),
            Turn(f"{WORKERS} gateways of one worker", "gateway", _capacity(bench, alone, call)),
            Turn(
                f"{WORKERS} workers of one gateway", "gateway", _capacity(bench, [together], call)
            ),
        ],
        rounds=7 if bench.quick else ROUNDS,
    )


def _capacity(bench: Bench, programs: Sequence[Program], call: Call) -> Take:
    """Takes a block of calls, whose connections ``programs`` share out among them."""

    async def take() -> dict[str, float]:
        for program in programs:
            told = await bench.load.do(
                "connect",
                port=program.port,
                requests=call.requests,
                count=call.connections // len(programs),
            )
            for sample in told["samples"]:
                call.check(sample.encode("latin-1"))
        before = _used(programs)
        seen = await bench.load.do("calls", seconds=BLOCK_S)
        used = [now - before.get(pid, 0.0) for pid, now in _used(programs).items()]
        await bench.load.do("hang up")
        return {
            "calls/s of CPU": seen["calls"] / max(used) * 1e6,
            "calls/s": seen["calls"] / seen["seconds"],
            "µs": sum(used) / seen["calls"],
        }

    return take


def _used(programs: Sequence[Program]) -> dict[int, float]:
    return {pid: us for program in programs for pid, us in cpu_us_each(program.pid).items()}
