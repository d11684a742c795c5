"""When an upstream is left alone, and when it is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.breaker import Breaker, State, Turn, Window

OPEN_S = 3.0


def breaker(
    *, failures: int = 3, failure_rate: float = 1.0, calls_min: int = 1000, window_s: float = 30.0
) -> Breaker:
    return Breaker(
        failures=failures,
        failure_rate=failure_rate,
        calls_min=calls_min,
        window_s=window_s,
        open_s=OPEN_S,
    )


def turn(of: Breaker, now: float) -> Turn:
    taken = of.take(now)
    assert taken is not None
    return taken


def state(of: Breaker) -> State:
    return of.state


def fail(of: Breaker, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        of.failed(turn(of, now), now)


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    it = breaker()
    fail(it, 2)
    assert state(it) is State.CLOSED
    fail(it, 1)
    assert state(it) is State.OPEN
    assert it.take(0.0) is None
    assert not it.admits(0.0)


def test_an_answer_between_failures_starts_the_row_anew() -> None:
    it = breaker()
    fail(it, 2)
    it.answered(turn(it, 0.0), 0.0)
    fail(it, 2)
    assert state(it) is State.CLOSED


def test_with_failures_0_no_row_opens_it() -> None:
    it = breaker(failures=0)
    fail(it, 999)
    assert state(it) is State.CLOSED


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [
        (10, 10, State.OPEN),
        (11, 9, State.CLOSED),
        (9, 10, State.CLOSED),  # fewer than calls_min
        (0, 20, State.OPEN),
    ],
)
def test_it_opens_at_a_share_of_failures_among_enough_calls(
    good: int, bad: int, expected: State
) -> None:
    it = breaker(failures=0, failure_rate=0.5, calls_min=20)
    for _ in range(good):
        it.answered(turn(it, 1.0), 1.0)
    fail(it, bad, 1.0)
    assert state(it) is expected


def test_failures_older_than_the_window_do_not_count() -> None:
    it = breaker(failures=0, failure_rate=0.5, calls_min=20)
    fail(it, 19, 0.0)
    fail(it, 1, 34.0)
    assert state(it) is State.CLOSED
    fail(it, 19, 35.0)
    assert state(it) is State.OPEN


def test_one_call_in_every_interval_tries_an_open_one() -> None:
    it = breaker()
    fail(it, 3)
    assert it.rest_s(1.0) == 2.0
    assert it.take(2.9) is None
    assert it.rest_s(3.0) == 0.0
    assert turn(it, 3.0).probe
    assert state(it) is State.HALF_OPEN
    assert it.take(3.1) is None
    assert turn(it, 6.0).probe, "a probe that hangs must not keep it shut"


def test_a_probe_that_is_answered_closes_it() -> None:
    it = breaker()
    fail(it, 3)
    after = it.answered(turn(it, 3.0), 3.5)
    assert state(it) is State.CLOSED
    assert not after.probe
    it.failed(after, 4.0)
    fail(it, 2, 4.0)
    assert state(it) is State.OPEN, "the end of a call that was a probe counts as any other's"


def test_once_closed_it_starts_counting_anew() -> None:
    it = breaker(failures=0, failure_rate=0.5, calls_min=20)
    fail(it, 20)
    it.answered(turn(it, 3.0), 3.0)
    fail(it, 19, 3.0)
    assert state(it) is State.CLOSED
    fail(it, 1, 3.0)
    assert state(it) is State.OPEN


def test_a_probe_that_fails_opens_it_anew() -> None:
    it = breaker()
    fail(it, 3)
    it.failed(turn(it, 3.0), 5.0)
    assert state(it) is State.OPEN
    assert it.rest_s(5.0) == OPEN_S


def test_a_probe_that_says_nothing_gives_its_turn_back() -> None:
    it = breaker()
    fail(it, 3)
    it.gave_back(turn(it, 3.0), 3.2)
    assert state(it) is State.OPEN
    assert turn(it, 3.2).probe


def test_a_good_check_lets_the_next_call_through_at_once() -> None:
    it = breaker()
    it.hasten(0.0)
    assert state(it) is State.CLOSED
    fail(it, 3)
    it.hasten(0.5)
    assert turn(it, 0.5).probe


def test_calls_from_before_it_opened_or_closed_say_nothing() -> None:
    it = breaker()
    before = [turn(it, 0.0) for _ in range(9)]
    fail(it, 3)
    it.failed(before[0], 1.0)
    assert it.answered(before[1], 1.0) == before[1]
    it.gave_back(before[2], 1.0)
    assert state(it) is State.OPEN
    assert it.rest_s(1.0) == 2.0
    probes = [turn(it, 3.0), turn(it, 6.0)]
    it.answered(probes[0], 6.5)
    for stale in (*before, probes[1]):
        it.failed(stale, 7.0)
    it.gave_back(probes[1], 7.0)
    assert state(it) is State.CLOSED


@given(
    st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=200),
    st.sampled_from([0.5, 1.0, 7.0, 30.0]),
)
def test_the_window_counts_as_a_list_of_all_calls_would(
    calls: list[tuple[float, bool]], window_s: float
) -> None:
    window = Window(window_s)
    now = 0.0
    ended: list[tuple[int, bool]] = []
    step_s = window_s / 10
    for pause_s, failed in calls:
        now += pause_s
        window.add(now, failed=failed)
        step = int(now / step_s)
        ended.append((step, failed))
        inside = [bad for at, bad in ended if at >= step - 10]
        assert (window.calls, window.failures) == (len(inside), sum(inside))


class Machine(RuleBasedStateMachine):
    """Calls begin, answer, fail and are given up in any order, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.it = breaker(failures=2, failure_rate=0.6, calls_min=4, window_s=10.0)
        self.now = 0.0
        self.turns: list[Turn] = []
        self.probes_at: list[float] = []

    @rule(quarters=st.integers(0, 16))
    def wait(self, quarters: int) -> None:
        self.now += quarters / 4

    @rule()
    def begin(self) -> None:
        admitted = self.it.admits(self.now)
        taken = self.it.take(self.now)
        assert admitted is (taken is not None)
        if taken is not None:
            self.turns.append(taken)
            if taken.probe:
                self.probes_at.append(self.now)

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), how=st.sampled_from(["answered", "failed"]))
    def end(self, data: st.DataObject, how: str) -> None:
        index = data.draw(st.integers(0, len(self.turns) - 1))
        ended = self.turns.pop(index)
        was = self.it.state
        getattr(self.it, how)(ended, self.now)
        if was is not State.CLOSED and self.it.state is State.CLOSED:
            assert ended.probe
            assert how == "answered"
        if was is State.CLOSED and self.it.state is not State.CLOSED:
            assert how == "failed"

    @invariant()
    def probes_keep_their_distance(self) -> None:
        for earlier, later in zip(self.probes_at, self.probes_at[1:], strict=False):
            assert later - earlier >= OPEN_S

    @invariant()
    def it_is_half_open_only_while_a_probe_is_under_way(self) -> None:
        if self.it.state is State.HALF_OPEN:
            assert any(each.probe for each in self.turns)

    @invariant()
    def it_never_rests_for_longer_than_an_interval(self) -> None:
        assert 0.0 <= self.it.rest_s(self.now) <= OPEN_S


TestMachine = Machine.TestCase
