"""Replicas killed while they work; the long run of the same is ``make crash``."""

from __future__ import annotations

from pathlib import Path
from random import SystemRandom

import pytest

from tests.support.crashes import crashes
from tests.support.replicas import KINDS

KILLS = 15


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_acknowledged_comes_to_one_end_once_whichever_replicas_are_killed(
    kind: str, tmp_path: Path
) -> None:
    report = await crashes(kind, tmp_path, kills=KILLS, seed=SystemRandom().randrange(1_000_000))
    print(report)  # shown where it fails
    assert not report.wrong
    assert report.kills >= KILLS / 2  # the rest was told to stop, or was the last that served
    assert report.ended["COMPLETED"] > report.ended["CANCELLED"]
    assert report.taken_over > 0
