"""What the benchmark found, as it lies in the file.

Owns: its form, medians and ranges.
Does not know: how anything is measured, or what it is to be.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

LATEST = Path(__file__).parent / "results" / "latest.json"


@dataclass(slots=True)
class Measure:
    """One figure, measured in several rounds; those of the same scenario that were measured in turn
    have as many ``values``, and the same round's stand at the same place."""

    scenario: str
    case: str
    peer: str
    unit: str
    values: list[float]

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)


@dataclass(slots=True)
class Results:
    """All measures of a run, and what it ran on."""

    machine: dict[str, str] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)
    #: What could not be measured, and why, a sentence each, by scenario.
    notes: dict[str, list[str]] = field(default_factory=dict)
    #: Seconds that each scenario took.
    took_s: dict[str, float] = field(default_factory=dict)

    def find(self, scenario: str, case: str, peer: str, unit: str = "µs") -> Measure | None:
        """The measure of that name, where it was made."""
        wanted = (scenario, case, peer, unit)
        for each in self.measures:
            if (each.scenario, each.case, each.peer, each.unit) == wanted:
                return each
        return None

    def of(self, scenario: str) -> list[Measure]:
        """Those of one scenario, in the order in which they were made."""
        return [each for each in self.measures if each.scenario == scenario]

    def take(self, other: Results) -> None:
        """Put what ``other`` has in the place of what was measured of the same scenarios before.
        What was measured on another machine goes altogether."""
        if any(self.machine.get(fact) != other.machine[fact] for fact in ("processor", "cores")):
            self.measures, self.notes, self.took_s = [], {}, {}
        self.measures = [m for m in self.measures if m.scenario not in other.took_s]
        self.measures += other.measures
        for scenario in other.took_s:
            self.notes.pop(scenario, None)
        self.notes |= other.notes
        self.took_s |= other.took_s
        self.machine = other.machine


def load(path: Path = LATEST) -> Results:
    """Those in the file; empty where there is none."""
    if not path.exists():
        return Results()
    return msgspec.json.decode(path.read_bytes(), type=Results)


def save(results: Results, path: Path = LATEST) -> None:
    """Write them, one measure a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole: dict[str, Any] = asdict(results)
    for measure in whole["measures"]:
        measure["values"] = [float(f"{value:.6g}") for value in measure["values"]]
    path.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")
