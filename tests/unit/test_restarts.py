"""When a worker that has ended is started again."""

from __future__ import annotations

import pytest

from gateway.restarts import PAUSE_S_MAX, STEADY_S, Restarts

STEADY, QUICK, NEVER = STEADY_S, STEADY_S / 2, None


@pytest.mark.parametrize(
    ("served_s", "pauses_s"),
    [
        ([STEADY, STEADY, STEADY], [0, 0, 0]),
        ([QUICK], [0]),
        ([QUICK, QUICK, QUICK, QUICK], [0, 0.5, 1, 2]),
        ([QUICK, QUICK, STEADY, QUICK, QUICK], [0, 0.5, 0, 0, 0.5]),
        ([NEVER, NEVER, NEVER], [0.5, 1, 2]),
        ([STEADY, NEVER, NEVER], [0, 0.5, 1]),
    ],
)
def test_only_what_ends_quickly_again_and_again_waits_and_ever_longer(
    served_s: list[float | None], pauses_s: list[float]
) -> None:
    restarts = Restarts()
    assert [restarts.pause_s(each) for each in served_s] == pauses_s


def test_the_pauses_have_an_end_however_long_that_goes_on() -> None:
    restarts = Restarts()
    assert [restarts.pause_s(None) for _ in range(3000)][-1] == PAUSE_S_MAX
    assert restarts.pause_s(STEADY_S) == 0
