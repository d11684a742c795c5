"""The hot path's cost beside the bare proxy's, in the same run: it may not become dearer unnoticed.

``python -m tests.bench.guard`` accepts new figures.
"""

from __future__ import annotations

from tests.bench.guard import WATCHED, Pair, baseline, paired

#: By how much dearer a figure may be before it counts.
TOLERANCE = 1.15
#: A machine that is busy enough can spoil a measure, but hardly each of several.
TRIES = 3


async def test_calls_and_events_cost_no_more_than_they_did_beside_a_bare_proxy() -> None:
    accepted = baseline()
    async with paired() as pair:
        dearer = {
            name: figures
            for name in WATCHED
            if min(figures := await measured(pair, name, accepted[name] * TOLERANCE))
            > accepted[name] * TOLERANCE
        }
    assert not dearer, f"{dearer} times the bare proxy's cost, and {accepted} were accepted"


async def measured(pair: Pair, name: str, limit: float) -> list[float]:
    """Measure once, and again as long as it is above ``limit``."""
    figures: list[float] = []
    while not figures or (figures[-1] > limit and len(figures) < TRIES):
        figures.append(await WATCHED[name](pair))
    return figures


def test_the_baseline_has_a_figure_for_all_that_is_watched_and_for_nothing_else() -> None:
    assert baseline().keys() == WATCHED.keys()
    assert all(figure > 0 for figure in baseline().values())
