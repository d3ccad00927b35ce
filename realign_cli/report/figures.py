"""Rows of evals -> what a page draws of them: intervals on a common scale, and means against what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realign_cli.equations.bootstrap import Mean
    from realign_cli.evaluation.compare import Row
    from realign_cli.report.sources import EvalFolder

_FRONTIER = 3  # systems of known cost, from which on means are drawn against it


@dataclass(frozen=True)
class Whisker:
    """A mean with its interval on a line from 0 to 1, and where the value zero lies on it."""

    low: float
    mean: float
    high: float
    zero: float

    @property
    def verdict(self) -> str:
        """Whether the interval lies above zero, below it, or holds it."""
        return "up" if self.low > self.zero else "down" if self.high < self.zero else "unsure"


@dataclass
class System:
    """A folder that was measured: its name, the passes of the generator per image, and the mean of each metric."""

    name: str
    passes: float | None = None
    means: dict[str, Mean] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """A system in a chart, from 0 to 1 each way, with its number in the legend and the ends of its interval."""

    number: int
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """The means of a metric against passes of the generator, and the values at the ends of both axes."""

    metric: str
    points: list[Point]
    passes: tuple[float, float]
    values: tuple[float, float]


def whiskers(rows: Sequence[Row]) -> list[Whisker | None]:
    """Of each row the difference from the baseline; None where there is none.

    What lies within -1 and 1, as cosines and probabilities do, has one scale; any other metric has its own.
    """
    reach: dict[str | None, float] = {}
    for row in rows:
        if row.difference:
            most = max(abs(row.difference.low), abs(row.difference.high))
            reach[_scale(row)] = max(most, reach.get(_scale(row), 0))
    return [_whisker(row.difference, reach[_scale(row)] or 1) if row.difference else None for row in rows]


def _scale(row: Row) -> str | None:
    assert row.difference
    return None if max(abs(row.difference.low), abs(row.difference.high)) <= 1 else row.metric


def _whisker(mean: Mean, reach: float) -> Whisker:
    low, middle, high = ((value / reach + 1) / 2 for value in (mean.low, mean.mean, mean.high))
    return Whisker(low, middle, high, 0.5)


def measured_systems(evals: Sequence[EvalFolder]) -> list[System]:
    """Every folder that evals measured, with its means over all prompts; the first eval of a folder counts."""
    systems: dict[str, System] = {}
    for one in evals:
        for side, is_run in ((one.baseline, False), (one.run, True)):
            if side is None:
                continue
            system = systems.setdefault(side.source, System(PurePath(side.source).name))
            system.passes = system.passes or (side.cost or {}).get("passes")
            for row in one.rows:
                mean = row.value if is_run else row.baseline
                if mean and row.category is None:
                    system.means.setdefault(row.metric, mean)
    names = [system.name for system in systems.values()]
    for source, system in systems.items():
        if names.count(system.name) > 1:
            system.name = source
    return list(systems.values())


def frontier(systems: Sequence[System]) -> list[Chart]:
    """A chart for each metric that enough systems of known cost have."""
    charts = []
    for metric in dict.fromkeys(metric for system in systems for metric in system.means):
        numbered = enumerate(systems, 1)
        shown = [(i, s.passes, s.means[metric]) for i, s in numbered if s.passes is not None and metric in s.means]
        if len(shown) < _FRONTIER:
            continue
        most = max(passes for _, passes, _ in shown)
        low, high = min(mean.low for *_, mean in shown), max(mean.high for *_, mean in shown)
        height = (high - low) or 1
        points = [
            Point(i, passes / most, *((value - low) / height for value in (mean.mean, mean.low, mean.high)))
            for i, passes, mean in shown
        ]
        charts.append(Chart(metric, points, (0, most), (low, high)))
    return charts
