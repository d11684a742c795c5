"""A short soak; the long one, and its memory, is ``python -m tests.bench.soak``."""

from __future__ import annotations

from tests.bench.soak import soaking

STREAMS = 600


async def test_streams_that_are_given_up_leave_no_descriptor_and_nothing_on_the_gauges() -> None:
    async with soaking() as soak:
        states = [state async for state in soak.run(STREAMS, warm_up=100, every=STREAMS)]
    assert [state.streams for state in states] == [0, STREAMS]
    assert not soak.report.wrong
    assert soak.report.whole == soak.report.aborted == (STREAMS + 100) / 2
    assert not soak.report.left_over
