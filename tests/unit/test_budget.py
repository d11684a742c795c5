"""How many calls may be made again, and how long each waits before."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.budget import CallBudget, RetryBudget, backoff


def test_a_quiet_upstream_has_three_retries_in_hand() -> None:
    budget = RetryBudget(0.2)
    granted = []
    for _ in range(4):
        call = budget.begin()
        granted.append(call.retry())
        call.end()
    assert granted == [True, True, True, False], "each call has added 0.2 only"


def test_a_share_of_0_allows_none() -> None:
    assert not RetryBudget(0).begin().retry()


def test_only_one_call_in_five_is_under_way_again() -> None:
    budget = RetryBudget(0.2)
    calls = [budget.begin() for _ in range(15)]
    assert [call.retry() for call in calls[:4]] == [True, True, True, False]
    assert calls[0].retry(), "a call's next retry takes the place of the one before"
    calls[1].end()
    assert calls[3].retry() is False, "14 calls leave room for two"


def test_a_call_that_ends_makes_room() -> None:
    budget = RetryBudget(0.2)
    one, other = budget.begin(), budget.begin()
    assert one.retry()
    assert not other.retry()
    one.end()
    assert other.retry()
    assert other.retries == 1


@given(st.floats(0, 1), st.lists(st.sampled_from(["begin", "retry", "end"]), max_size=300))
@example(1.0, ["begin", "retry"] * 20)
def test_retries_stay_a_share_of_the_calls(share: float, steps: list[str]) -> None:
    budget = RetryBudget(share)
    calls: list[CallBudget] = []
    made = granted = 0
    for step in steps:
        if step == "begin":
            calls.append(budget.begin())
            made += 1
        elif calls and step == "retry":
            call = calls.pop(0)
            calls.append(call)
            if call.retry():
                granted += 1
                assert budget.retries <= max(1.0, share * budget.calls)
        elif calls:
            calls.pop().end()
        assert granted <= share * made + 3 + 1e-6
        assert 0 <= budget.retries <= budget.calls == len(calls)
    for call in calls:
        call.end()
    assert budget.calls == budget.retries == 0


@pytest.mark.parametrize(
    ("retry", "retry_after_s", "draw", "wait_s"),
    [
        (0, None, 0.0, 0.0),
        (0, None, 0.5, 0.05),
        (1, None, 0.5, 0.1),
        (2, None, 0.5, 0.2),
        (99, None, 0.5, 1.0),
        (0, 0.0, 0.5, 0.05),
        (0, 1.0, 0.5, 1.05),
        (0, 2.0, 0.5, 2.0),
        (0, 2.1, 0.0, None),
    ],
)
def test_the_wait_doubles_up_to_a_limit_and_honours_retry_after(
    retry: int, retry_after_s: float | None, draw: float, wait_s: float | None
) -> None:
    assert backoff(
        retry, base_s=0.1, max_s=2.0, retry_after_s=retry_after_s, draw=draw
    ) == pytest.approx(wait_s)
