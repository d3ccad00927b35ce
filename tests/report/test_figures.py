"""Intervals on a common scale, and means against cost."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_folders import record, write_eval, write_records

from realign_cli.equations.bootstrap import Mean
from realign_cli.evaluation.compare import Row
from realign_cli.report.figures import frontier, measured_systems, whiskers
from realign_cli.report.sources import Sources, read_sources


def row(metric: str, low: float, mean: float, high: float) -> Row:
    value = Mean(4, 0.5, 0.4, 0.6)
    return Row(metric, value, value, Mean(4, mean, low, high), value)


def test_cosines_share_a_scale_and_others_have_their_own() -> None:
    drawn = whiskers(
        [row("a", -0.2, 0.1, 0.4), row("b", 0.1, 0.2, 0.3), row("c", -50, -25, -10), Row("d", Mean(1, 1, 1, 1))]
    )
    a, b, c, d = drawn
    assert d is None and a and b and c
    assert (a.low, a.mean, a.high, a.zero) == pytest.approx((0.25, 0.625, 1.0, 0.5))
    assert (b.low, b.high) == pytest.approx((0.625, 0.875)) and (c.low, c.high) == pytest.approx((0.0, 0.4))
    assert [one.verdict for one in (a, b, c)] == ["unsure", "up", "down"]


def sources(root: Path, names: tuple[str, ...]) -> Sources:
    """Evals of folders against the folder `plain`, in which the one with number i has the value i / 10."""
    plain = write_records(root / "plain", [record("a", "one")])
    for number, name in enumerate(names, 1):
        folder = write_records(root / name, [record("a", "one")])
        write_eval(root / f"eval-{name}", folder, {"a": {"m": number / 10}}, plain, {"a": {"m": 0.05}})
    return read_sources([root])


def test_a_frontier_needs_three_systems(tmp_path: Path) -> None:
    assert frontier(measured_systems(sources(tmp_path / "two", ("x",)).evals)) == []
    systems = measured_systems(sources(tmp_path / "three", ("x", "y")).evals)
    assert [(one.name, one.passes, one.means["m"].mean) for one in systems] == [
        ("plain", 1.0, 0.05),
        ("x", 2.0, 0.1),
        ("y", 2.0, 0.2),
    ]
    (chart,) = frontier(systems)
    assert [(one.number, one.x) for one in chart.points] == [(1, 0.5), (2, 1.0), (3, 1.0)]
    assert [one.y for one in chart.points] == pytest.approx([0, 1 / 3, 1])
    assert (chart.passes, chart.values) == ((0, 2.0), (0.05, 0.2))
