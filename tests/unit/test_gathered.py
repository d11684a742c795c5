"""The counts of many processes as those of one: sums never go back, gauges are of the living."""

from __future__ import annotations

from collections import defaultdict
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.gathered import Change, Exemplar, Family, Labels, Ledger, Series, Values, change
from gateway.metrics import Metrics
from gateway.sampling import families
from tests.support.timing import uncollected

REQUESTS = Family("requests_total", "counter", "", ("pipeline",))
CALLS = Family("calls_total", "counter", "", ("upstream", "kind"))
OPEN = Family("open", "gauge", "", ("pipeline",))
UP = Family("gateway_upstream_up", "gauge", "", ("upstream", "kind"))
BREAKER = Family("gateway_upstream_breaker", "gauge", "", ("upstream", "kind"))
TOOK = Family("took_seconds", "histogram", "", ("pipeline",), ("1", "10", "+Inf"))
ALL = (REQUESTS, CALLS, OPEN, UP, BREAKER, TOOK)
UPSTREAM = ("u", "pupau")


def ledger() -> Ledger:
    """An empty one in which pipelines a and b and the upstream u are configured."""
    made = Ledger(ALL)
    made.configured(["a", "b"], [UPSTREAM])
    return made


def told(family: Family, **values: Values) -> Change:
    return Change({family.name: {(name,): each for name, each in values.items()}}, {})


def test_what_processes_count_is_added_up_also_after_their_end() -> None:
    book = ledger()
    book.update(1, told(REQUESTS, a=(2.0,), b=(1.0,)))
    book.update(2, told(REQUESTS, a=(3.0,)))
    assert book.total()["requests_total"] == {("a",): (5.0,), ("b",): (1.0,)}
    book.ended(1)
    assert book.total()["requests_total"] == {("a",): (5.0,), ("b",): (1.0,)}
    book.update(3, told(REQUESTS, a=(1.0,)))
    book.update(2, told(REQUESTS, a=(4.0,)))
    assert book.total()["requests_total"] == {("a",): (7.0,), ("b",): (1.0,)}


def test_histograms_are_added_up_bucket_by_bucket() -> None:
    book = ledger()
    book.update(1, told(TOOK, a=(1.0, 2.0, 0.0, 9.5)))
    book.ended(1)
    book.update(2, told(TOOK, a=(0.0, 1.0, 1.0, 60.0)))
    assert book.total()["took_seconds"] == {("a",): (1.0, 3.0, 1.0, 69.5)}


def test_gauges_are_those_of_the_living() -> None:
    book = ledger()
    book.update(1, told(OPEN, a=(2.0,)))
    book.update(2, told(OPEN, a=(3.0,)))
    assert book.total()["open"] == {("a",): (5.0,)}
    book.ended(2)
    assert book.total()["open"] == {("a",): (2.0,)}
    book.ended(1)
    assert book.total()["open"] == {}


@pytest.mark.parametrize(
    ("family", "first", "second", "shown"),
    [(UP, 1.0, 0.0, 0.0), (UP, 1.0, 1.0, 1.0), (BREAKER, 0.0, 2.0, 2.0), (BREAKER, 0.0, 1.0, 1.0)],
)
def test_of_an_upstream_the_worst_is_shown_that_any_process_sees(
    family: Family, first: float, second: float, shown: float
) -> None:
    book = ledger()
    for process, value in ((1, first), (2, second)):
        book.update(process, Change({family.name: {UPSTREAM: (value,)}}, {}))
    assert book.total()[family.name] == {UPSTREAM: (shown,)}


def test_every_gauge_that_a_sum_says_nothing_of_is_one_of_the_gateway() -> None:
    gauges = {each.name for each in families(Metrics(CollectorRegistry())) if each.kind == "gauge"}
    assert {UP.name, BREAKER.name} < gauges


def test_a_series_that_one_process_drops_stays_until_no_one_knows_its_name() -> None:
    book = ledger()
    for process in (1, 2):
        book.update(process, told(REQUESTS, a=(2.0,), b=(1.0,)))
        book.update(process, told(OPEN, a=(1.0,)))
    book.ended(1)
    book.configured(["b"], [UPSTREAM])
    # A request that began before still runs on it.
    assert book.total()["requests_total"][("a",)] == (4.0,)
    book.update(3, told(REQUESTS, a=(1.0,)))
    book.update(2, Change({}, {"requests_total": [("a",)], "open": [("a",)]}))
    assert book.total()["requests_total"][("a",)] == (5.0,)
    book.update(3, Change({}, {"requests_total": [("a",)]}))
    assert book.total()["requests_total"] == {("b",): (2.0,)}
    assert book.total()["open"] == {}


def test_an_upstream_is_dropped_by_its_name_and_kind() -> None:
    book = ledger()
    values: Series = {"calls_total": {UPSTREAM: (1.0,), ("u", "triton"): (2.0,)}}
    book.update(1, Change(values, {}))
    book.ended(1)
    assert book.total()["calls_total"] == {UPSTREAM: (1.0,)}


def test_a_name_that_is_dropped_and_configured_again_counts_on() -> None:
    book = ledger()
    book.update(1, told(REQUESTS, a=(5.0,)))
    book.update(1, told(TOOK, a=(5.0, 0.0, 0.0, 2.0)))
    # Between two reports the series were dropped, and made anew.
    book.update(1, told(REQUESTS, a=(2.0,)))
    book.update(1, told(TOOK, a=(1.0, 0.0, 1.0, 20.0)))
    assert book.total()["requests_total"] == {("a",): (7.0,)}
    assert book.total()["took_seconds"] == {("a",): (6.0, 0.0, 1.0, 22.0)}
    # The sum of what was observed may go down, and a gauge may anyway.
    book.update(1, told(TOOK, a=(2.0, 0.0, 1.0, 19.0)))
    book.update(1, told(OPEN, a=(2.0,)))
    book.update(1, told(OPEN, a=(1.0,)))
    assert book.total()["took_seconds"] == {("a",): (7.0, 0.0, 1.0, 21.0)}
    assert book.total()["open"] == {("a",): (1.0,)}


def test_the_end_of_a_process_that_told_nothing_changes_nothing() -> None:
    book = ledger()
    book.update(1, told(REQUESTS, a=(5.0,)))
    before = book.total()
    book.ended(2)
    book.update(1, Change({}, {"requests_total": [("b",)]}))
    assert book.total() == before


def test_a_thousand_processes_that_have_ended_cost_nothing() -> None:
    book = ledger()
    labels = [(f"{number}",) for number in range(20)]
    book.configured([name for (name,) in labels], [])
    values: Series = {
        "requests_total": dict.fromkeys(labels, (1.0,)),
        "took_seconds": dict.fromkeys(labels, (1.0, 0.0, 0.0, 0.5)),
    }
    for process in range(1000):
        book.update(process, Change({name: dict(each) for name, each in values.items()}, {}))
        book.ended(process)
    with uncollected():
        began = thread_time()
        total = book.total()
        assert thread_time() - began < 0.1
    assert total["requests_total"] == dict.fromkeys(labels, (1000.0,))
    assert total["took_seconds"] == dict.fromkeys(labels, (1000.0, 0.0, 0.0, 500.0))


SERIES = st.dictionaries(
    st.sampled_from(["x", "y"]),
    st.dictionaries(st.tuples(st.sampled_from("abc")), st.tuples(st.floats(0, 9)), max_size=3),
    max_size=2,
)


@given(SERIES, SERIES)
def test_a_change_makes_the_one_into_the_other(before: Series, after: Series) -> None:
    new = change(before, after)
    made = {name: dict(each) for name, each in before.items()}
    for name, values in new.values.items():
        made.setdefault(name, {}).update(values)
    for name, gone in new.gone.items():
        for labels in gone:
            del made[name][labels]
    assert _filled(made) == _filled(after)
    assert bool(new) == (_filled(before) != _filled(after))


def _filled(series: Series) -> Series:
    return {name: each for name, each in series.items() if each}


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["count", "tell", "drop", "end"]), st.integers(0, 2)), max_size=60
)


@given(ACTIONS)
def test_no_sum_goes_back_whatever_processes_do(actions: list[tuple[str, int]]) -> None:
    """Three processes count, tell, drop what they counted, and end; others take their places."""
    book = Ledger(ALL)
    book.configured(["a"], [])
    counts: defaultdict[int, float] = defaultdict(float)
    known: dict[int, Series] = {}
    # By process: what it has told, and what it had told of series that it dropped.
    heard: defaultdict[int, float] = defaultdict(float)
    idents = [0, 1, 2]
    last = 0.0
    for action, place in actions:
        ident = idents[place]
        if action == "count":
            counts[ident] += 1
        elif action == "drop":
            counts.pop(ident, None)
        elif action == "end":
            book.ended(ident)
            idents[place] = max(idents) + 1
        else:
            now: Series = {}
            if ident in counts:
                labels: Labels = ("a",)
                now = {"requests_total": {labels: (counts[ident],)}}
            before = known.get(ident, {})
            book.update(ident, change(before, now))
            known[ident] = now
            heard[ident] = max(heard[ident], counts.get(ident, 0.0))
        total = book.total()["requests_total"].get(("a",), (0.0,))[0]
        assert total >= last
        assert total >= sum(heard.values())
        last = total


def marked(**held: dict[int, Exemplar]) -> Change:
    """A histogram's change, with the exemplars of its series."""
    change = told(TOOK, **dict.fromkeys(held, (1.0, 0.0, 0.0, 0.5)))
    change.exemplars = {TOOK.name: {(name,): each for name, each in held.items()}}
    return change


def test_of_the_traces_that_processes_tell_of_the_newest_of_each_bucket_is_kept() -> None:
    book = ledger()
    old, new, other = (0.5, "t1", "s1", 10.0), (0.6, "t2", "s2", 20.0), (5.0, "t3", "s3", 5.0)
    book.update(1, marked(a={0: new}))
    book.update(2, marked(a={0: old, 1: other}))
    assert book.exemplars() == {TOOK.name: {("a",): {0: new, 1: other}}}
    book.ended(1)
    assert book.exemplars()[TOOK.name][("a",)][0] == new


def test_traces_of_what_is_configured_no_more_are_forgotten() -> None:
    book = ledger()
    book.update(1, marked(a={0: (0.5, "t", "s", 1.0)}, b={0: (0.5, "t", "s", 1.0)}))
    book.configured(["b"], [UPSTREAM])
    assert book.exemplars()[TOOK.name].keys() == {("a",), ("b",)}  # a process still counts for it
    book.update(1, Change({}, {TOOK.name: [("a",)]}))
    assert book.exemplars()[TOOK.name].keys() == {("b",)}
