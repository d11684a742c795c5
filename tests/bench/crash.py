"""Replicas killed by the hundred while they work, and what became of what they had.

Run as ``python -m tests.bench.crash [KILLS [SEED [STORE]]]``, with ``STORE`` sqlite or redis; each
of them where none is named. On each, replicas are only killed first, and then, a quarter as many,
frozen, too. Prints the counts. Exits with 1 where anything that was acknowledged was lost, ended
twice or ran twice at once.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from random import SystemRandom
from time import monotonic

from tests.support.crashes import crashes
from tests.support.replicas import KINDS

KILLS = 200


async def main(kills: int, seed: int, kinds: Sequence[str]) -> int:
    """Run it and print what is seen. Returns the exit code."""
    wrong = 0
    for kind, freezes in product(kinds, (False, True)):
        began = monotonic()
        with tempfile.TemporaryDirectory() as folder:
            ends = kills // 4 if freezes else kills
            report = await crashes(kind, Path(folder), kills=ends, seed=seed, freezes=freezes)
        print(f"{kind}, {monotonic() - began:.0f} s, {report}\n", flush=True)
        wrong += len(report.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(
        asyncio.run(
            main(
                int(given[0]) if given else KILLS,
                int(given[1]) if len(given) > 1 else SystemRandom().randrange(1_000_000),
                given[2:] or KINDS,
            )
        )
    )
