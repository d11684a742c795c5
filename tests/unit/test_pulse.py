"""Who is taken for dead, and who is not."""

from __future__ import annotations

from gateway.executions.pulse import Pulse


def test_a_count_that_stands_still_for_the_lease_is_that_of_the_dead() -> None:
    pulse = Pulse(lease_s=10)
    assert pulse.look({"a": 7}, 0) == []
    assert pulse.look({"a": 7}, 4) == []
    assert pulse.look({"a": 7}, 8) == []
    assert pulse.look({"a": 7}, 9.9) == []
    assert pulse.look({"a": 7}, 10) == [("a", 7)]


def test_who_beats_lives_however_slowly_his_work_goes() -> None:
    pulse = Pulse(lease_s=10)
    assert all(pulse.look({"a": beats}, 4.0 * beats) == [] for beats in range(1, 50))


def test_a_beat_at_the_last_moment_counts() -> None:
    pulse = Pulse(lease_s=10)
    for at in (0, 4, 8, 9):
        assert pulse.look({"a": 1}, at) == []
    for at in (10, 14, 18, 19):
        assert pulse.look({"a": 2}, at) == []
    assert pulse.look({"a": 2}, 20) == [("a", 2)]


def test_after_a_silence_of_the_store_everyone_has_a_whole_lease_again() -> None:
    pulse = Pulse(lease_s=10)
    assert pulse.look({"a": 1, "b": 1}, 0) == []
    assert pulse.look({"a": 1, "b": 1}, 4) == []
    # For a minute nobody could beat; the first look afterwards tells nothing of who is alive.
    assert pulse.look({"a": 1, "b": 1}, 64) == []
    assert pulse.look({"a": 1, "b": 2}, 68) == []
    assert pulse.look({"a": 1, "b": 3}, 72) == []
    assert pulse.look({"a": 1, "b": 4}, 74) == [("a", 1)]


def test_few_looks_are_not_enough() -> None:
    pulse = Pulse(lease_s=1)
    assert pulse.look({"a": 1}, 0) == []
    assert pulse.look({"a": 1}, 0.5) == []
    assert pulse.look({"a": 1}, 1.0) == []
    assert pulse.look({"a": 1}, 1.5) == [("a", 1)]


def test_a_holder_that_left_is_forgotten() -> None:
    pulse = Pulse(lease_s=1)
    for at in (0, 0.5, 1.0):
        pulse.look({"a": 1}, at)
    assert pulse.look({}, 1.5) == []
    assert pulse.look({"a": 1}, 2.0) == []


def test_the_dead_are_told_again_until_somebody_has_taken_over() -> None:
    pulse = Pulse(lease_s=1)
    for at in (0, 0.5, 1.0):
        pulse.look({"a": 1}, at)
    assert pulse.look({"a": 1}, 1.5) == pulse.look({"a": 1}, 2.0) == [("a", 1)]
