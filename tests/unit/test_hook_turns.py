"""How the deliveries that are made at once are shared among webhooks."""

from __future__ import annotations

from gateway.executions.hook_turns import QUICK_S, Turns

A, B, C = ("tenant", "a"), ("tenant", "b"), ("other", "a")


def slow(turns: Turns, *places: tuple[str, str]) -> None:
    for place in places:
        assert turns.begin(place, 0.0) == 0
        turns.end(place, 30.0, good=False)


def taken(turns: Turns, place: tuple[str, str], tries: int, now: float = 0.0) -> int:
    return sum(turns.begin(place, now) == 0 for _ in range(tries))


def test_a_quick_webhook_may_have_every_place() -> None:
    turns = Turns(16)
    assert taken(turns, A, 16) == 16


def test_one_that_failed_has_a_quarter_and_all_that_did_have_half() -> None:
    turns = Turns(16)
    slow(turns, A, B, C)
    assert taken(turns, A, 16) == 4
    assert taken(turns, B, 16) == 4
    assert taken(turns, C, 16) == 0
    assert taken(turns, ("tenant", "quick"), 8) == 8


def test_one_that_arrives_late_counts_as_slow_too() -> None:
    turns = Turns(16)
    turns.begin(A, 0.0)
    turns.end(A, QUICK_S + 0.1, good=True)
    assert taken(turns, A, 16) == 4


def test_one_quick_success_makes_it_quick_again() -> None:
    turns = Turns(16)
    slow(turns, A)
    turns.begin(A, 0.0)
    turns.end(A, 0.01, good=True)
    assert taken(turns, A, 16) == 16


def test_a_place_that_was_given_back_can_be_taken_again() -> None:
    turns = Turns(4)
    slow(turns, A)
    assert taken(turns, A, 2) == 1
    turns.end(A, 30.0, good=False)
    assert taken(turns, A, 2) == 1
    turns = Turns(8)
    slow(turns, A)
    assert taken(turns, A, 9) == 2
    turns.end(A, 30.0, good=False)
    assert taken(turns, A, 9) == 1


def test_even_a_single_place_is_given_to_a_slow_one() -> None:
    turns = Turns(1)
    slow(turns, A)
    assert taken(turns, A, 2) == 1


def test_what_has_no_place_comes_back_one_after_the_other() -> None:
    turns = Turns(4)
    slow(turns, A)
    assert taken(turns, A, 1) == 1
    waits = [turns.begin(A, 100.0) for _ in range(3)]
    assert [round(wait, 6) for wait in waits] == [1.0, 1.1, 1.2]
    assert round(turns.begin(A, 100.9), 6) == 1.0  # a second is the least
    waits = [turns.begin(A, 100.0) for _ in range(1000)]
    assert max(waits) <= 60.0  # and a minute the most
    assert min(waits) >= 1.0


def test_only_so_many_slow_ones_are_kept_in_mind() -> None:
    turns = Turns(16)
    slow(turns, *(("tenant", str(number)) for number in range(10_001)))
    assert taken(turns, ("tenant", "0"), 5) == 5
    assert taken(turns, ("tenant", "10000"), 5) == 4
