"""What is known of how long an upstream takes."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.latency import Latency


def test_nothing_is_known_without_calls() -> None:
    latency = Latency()
    assert latency.average_s(5.0) is None
    assert latency.p95_s() is None


def test_a_peak_counts_at_once_and_fades() -> None:
    latency = Latency()
    latency.note(0.1, 0.0)
    latency.note(2.0, 0.1)
    assert latency.average_s(0.1) == 2.0
    latency.note(0.1, 10.1)
    assert latency.average_s(10.1) == pytest.approx(2.0 / 2.71828 + 0.1 * (1 - 1 / 2.71828), 1e-4)


def test_without_calls_it_sinks_so_that_what_was_slow_is_tried_again() -> None:
    latency = Latency()
    latency.note(2.0, 0.0)
    average = latency.average_s(100.0)
    assert average is not None
    assert average < 0.001


def test_a_call_that_was_given_up_counts_if_it_took_longer_than_others() -> None:
    latency = Latency()
    latency.note_at_least(1.0, 0.0)
    latency.note_at_least(0.5, 0.0)
    assert latency.average_s(0.0) == 1.0
    latency.note_at_least(3.0, 0.0)
    assert latency.average_s(0.0) == 3.0


@given(st.lists(st.floats(0, 100), max_size=300))
def test_the_p95_is_that_of_the_last_128_calls(times: list[float]) -> None:
    latency = Latency()
    for n, time in enumerate(times):
        latency.note(time, float(n))
    kept = sorted(times[-128:])
    expected = kept[ceil(len(kept) * 0.95) - 1] if len(kept) >= 20 else None
    assert latency.p95_s() == expected
    assert latency.p95_s() == expected, "asking twice does not change it"


def test_older_calls_than_the_last_128_are_forgotten() -> None:
    latency = Latency()
    for n in range(20):
        latency.note(9.0, float(n))
    for n in range(128):
        assert latency.p95_s() is not None
        latency.note(n / 1000, 20.0 + n)
    assert latency.p95_s() == 0.121
    latency.note(5.0, 200.0)
    assert latency.p95_s() == 0.122, "0 has gone, and 5 has come"
