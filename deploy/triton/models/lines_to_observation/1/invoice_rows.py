"""The geometry of a page: lines of text as OCR finds them, put into rows as an eye sees them.

Owns: undoing the slant and the perspective of a photograph as far as rows need it.
Does not know: what the lines say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import Any

#: Text steeper than this is written along the page, not across it, and tells nothing of rows.
_STEEP = 0.6


@dataclass(frozen=True)
class Line:
    """A line of text. ``points``: its corners in pixels, clockwise from the top left one;
    ``score``: how sure the reading is, 0 to 1."""

    text: str
    score: float
    points: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Line:
        """From ``{"text", "score", "points": [[x, y], …]}``."""
        points = tuple((float(x), float(y)) for x, y in value["points"])
        return cls(str(value["text"]), float(value["score"]), points)

    @property
    def left(self) -> float:
        """The leftmost x, pixels."""
        return min(x for x, _ in self.points)

    def extent(self, slope: float) -> tuple[float, float]:
        """Where it begins and ends across a page whose rows have this slope, and whose columns
        lean as much: pixels, as if it stood at the top."""
        across = [x + slope * y for x, y in self.points]
        return min(across), max(across)

    @property
    def middle(self) -> tuple[float, float]:
        """The centre, pixels."""
        return fmean(x for x, _ in self.points), fmean(y for _, y in self.points)

    @property
    def length(self) -> float:
        """How long the upper edge is, pixels."""
        return math.dist(self.points[0], self.points[1])

    @property
    def height(self) -> float:
        """How long the left edge is, pixels."""
        return math.dist(self.points[0], self.points[3])

    @property
    def slope(self) -> float:
        """Pixels down for each pixel to the right; of both long edges."""
        top_left, top_right, bottom_right, bottom_left = self.points
        across = top_right[0] - top_left[0] + bottom_right[0] - bottom_left[0]
        down = top_right[1] - top_left[1] + bottom_right[1] - bottom_left[1]
        return down / across if across > 0 else math.inf


def rows(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines in reading order: rows from top to bottom, each from left to right."""
    slope, change = slant(lines)

    def level(line: Line) -> float:
        # Where the row through the line's middle meets the left margin, if a row that starts at
        # height v has the slope ``slope + change * v``.
        x, y = line.middle
        return (y - slope * x) / (1 + change * x)

    result: list[list[Line]] = []
    for line in sorted(lines, key=level):
        if result:
            row = result[-1]
            apart = level(line) - fmean(map(level, row))
            if apart < 0.5 * fmean((line.height, fmean(one.height for one in row))):
                row.append(line)
                continue
        result.append([line])
    for row in result:
        row.sort(key=lambda line: line.left)
    return result


def slant(lines: Sequence[Line]) -> tuple[float, float]:
    """The slope of rows at the top of the page, and how it changes for each pixel further down.

    Long lines tell it best: short ones are often boxed without regard to their slant. Perspective
    makes it change, by little; where the lines do not tell, it does not.
    """
    telling = [line for line in lines if line.length > 3 * line.height and abs(line.slope) < _STEEP]
    if not telling:
        return 0.0, 0.0
    usual = _weighted_median([(line.slope, line.length) for line in telling])
    near = [line for line in telling if abs(line.slope - usual) < 0.08]
    weights = [line.length**2 for line in near]
    heights = [line.middle[1] for line in near]
    slopes = [line.slope for line in near]
    total = sum(weights)
    height = sum(w * y for w, y in zip(weights, heights, strict=True)) / total
    slope = sum(w * s for w, s in zip(weights, slopes, strict=True)) / total
    spread = sum(w * (y - height) ** 2 for w, y in zip(weights, heights, strict=True))
    if len(near) < 5 or spread == 0:
        return slope, 0.0
    change = (
        sum(
            w * (y - height) * (s - slope) for w, y, s in zip(weights, heights, slopes, strict=True)
        )
        / spread
    )
    return slope - change * height, change


def _weighted_median(pairs: Sequence[tuple[float, float]]) -> float:
    """The value below and above which half of the weight lies."""
    ordered = sorted(pairs)
    passed = list(accumulate(weight for _, weight in ordered))
    return next(
        value for (value, _), below in zip(ordered, passed, strict=True) if below >= passed[-1] / 2
    )
