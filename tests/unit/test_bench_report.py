"""The benchmark's report: what follows from the figures, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.goals import GOALS, Goal
from tests.bench.measures import Measure, Results, load, save
from tests.bench.report import markdown, verdict

MACHINE = {"processor": "some", "cores": "2"}


def measured(*measures: Measure, machine: dict[str, str] = MACHINE) -> Results:
    took = {each.scenario: 1.0 for each in measures}
    return Results(machine={**machine}, measures=[*measures], took_s=took)


def calls(peer: str, *values: float) -> Measure:
    return Measure("same-dialect", "small JSON", peer, "µs", [*values])


def goal(beginning: str) -> Goal:
    return next(each for each in GOALS if each.what.startswith(beginning))


@pytest.mark.parametrize(
    ("ours", "envoys", "found", "met"),
    [
        ([50.0, 60.0, 70.0], [50.0, 50.0, 50.0], "1.2 ×", "met"),
        ([50.0, 65.0, 70.0], [50.0, 50.0, 50.0], "1.3 ×", "**missed**"),
        # The second round was slow for both, and that is no difference between them.
        ([55.0, 550.0, 56.0], [50.0, 500.0, 50.0], "1.1 ×", "met"),
    ],
)
def test_a_goal_is_judged_by_the_median_of_the_ratios_of_each_round(
    ours: list[float], envoys: list[float], found: str, met: str
) -> None:
    results = measured(calls("gateway", *ours), calls("envoy", *envoys))
    line = verdict(goal("Same dialect, small JSON"), results)
    assert line[1:3] == ("at most 1.25 ×", found)
    assert line[4] == met


def test_a_goal_that_is_to_be_exceeded_is_met_above_its_target() -> None:
    results = measured(calls("gateway", 50.0), calls("LiteLLM", 2000.0))
    assert verdict(goal("… LiteLLM"), results)[1:] == ("at least 30 ×", "40 ×", "", "met")


@pytest.mark.parametrize("one", GOALS, ids=lambda one: one.what)
def test_what_was_not_measured_is_said_to_be_so(one: Goal) -> None:
    assert verdict(one, Results())[2:] == ("not measured", "", "")


def test_cost_that_grows_evenly_is_found_to_and_cost_that_does_not_is_not() -> None:
    def growing(*costs: float) -> Results:
        sizes = (10, 100, 1000, 5000, 10_000)
        return measured(
            *(
                Measure("growth", f"{size} events", "gateway", "µs", [cost])
                for size, cost in zip(sizes, costs, strict=True)
            )
        )

    event = goal("An event more")
    assert verdict(event, growing(110, 200, 1100, 5100, 10_100))[2] == "1 ×"
    assert verdict(event, growing(110, 200, 1100, 9100, 27_100))[4] == "**missed**"


def test_a_scenario_measured_anew_takes_the_place_of_what_was_known_of_it() -> None:
    known = measured(calls("gateway", 90.0), Measure("media", "to Triton", "gateway", "×", [2.0]))
    known.take(measured(calls("gateway", 50.0)))
    assert [(each.scenario, each.values) for each in known.measures] == [
        ("media", [2.0]),
        ("same-dialect", [50.0]),
    ]


def test_figures_of_two_machines_do_not_stand_side_by_side() -> None:
    known = measured(Measure("media", "to Triton", "gateway", "×", [2.0]))
    known.take(measured(calls("gateway", 50.0), machine={"processor": "another", "cores": "2"}))
    assert [each.scenario for each in known.measures] == ["same-dialect"]


def test_results_come_back_from_the_file_as_they_were(tmp_path: Path) -> None:
    results = measured(calls("gateway", 50.25, 51.0))
    results.notes["same-dialect"] = ["Something was not there."]
    save(results, tmp_path / "new" / "results.json")
    assert load(tmp_path / "new" / "results.json") == results
    assert load(tmp_path / "none.json") == Results()


def test_the_report_says_what_it_was_measured_on_and_what_could_not_be() -> None:
    results = measured(calls("gateway", 50.0, 60.0), calls("envoy", 40.0, 50.0))
    results.notes["same-dialect"] = ["nginx is not here."]
    text = markdown(results, [])
    assert "- processor: some\n" in text
    assert "| small JSON | gateway | 55 µs | 50 to 60 |" in text
    assert "\nnginx is not here.\n" in text
