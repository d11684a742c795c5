"""``make bench``: what the gateway costs, beside other proxies in the same run.

``SCENARIO=name`` runs one, ``QUICK=1`` runs fewer and shorter rounds. What was found goes into
``tests/bench/results/latest.json``, and from there into the report; of quick runs it is only shown.

Owns: which scenarios there are, and their order.
Does not know: what they do, and what is made of what they find.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

from tests.bench import (
    calls,
    executions,
    machine,
    measures,
    report,
    resources,
    scaling,
    streams,
    transforms,
    triton,
    workers,
)
from tests.bench.harness import Bench, harness

SCENARIOS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "same-dialect": calls.same_dialect,
    "dialect-changed": calls.dialect_changed,
    "jsonata": transforms.jsonata,
    "sse-paced": streams.paced,
    "sse-full-speed": streams.full_speed,
    "idle-streams": resources.idle_streams,
    "media": resources.media,
    "triton": triton.inference,
    "executions": executions.executions,
    "workers": workers.workers,
    "configured": scaling.configured,
    "growth": scaling.growth,
}


async def run(names: list[str], *, quick: bool) -> tuple[measures.Results, list[str]]:
    """Run these scenarios, one after the other; what was found, and which of them broke off."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        rounds, block_s = (3, 0.2) if quick else (9, 0.4)
        async with harness(Path(folder), rounds=rounds, block_s=block_s, quick=quick) as bench:
            for name in names:
                print(f"{name}: {(SCENARIOS[name].__doc__ or '').splitlines()[0]}", flush=True)
                began = monotonic()
                bench.scenario = name
                try:
                    async with AsyncExitStack() as bench.stack:
                        await SCENARIOS[name](bench)
                except (RuntimeError, AssertionError, TimeoutError) as error:
                    # The others can be measured all the same; the exit code tells.
                    bench.note(f"It broke off: {type(error).__name__}: {str(error)[-500:]}")
                    bench.broken.append(name)
                bench.results.took_s[name] = monotonic() - began
            bench.results.machine = machine.describe(bench.cores)
            return bench.results, bench.broken


def main() -> int:
    """Returns the exit code."""
    wanted = os.environ.get("SCENARIO", "")
    if wanted and wanted not in SCENARIOS:
        print(f"There is no scenario {wanted}; there are {', '.join(SCENARIOS)}.", file=sys.stderr)
        return 2
    quick = os.environ.get("QUICK", "") not in ("", "0")
    found, broken = asyncio.run(run([wanted] if wanted else [*SCENARIOS], quick=quick))
    if quick:
        report.show(found)
    else:
        whole = measures.load()
        whole.take(found)
        measures.save(whole)
        report.main()
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
