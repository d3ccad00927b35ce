"""Plots for people: intervals of rows, and how values are spread. Numbers in, PIL images out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

if TYPE_CHECKING:
    from realign_cli.equations.bootstrap import Mean
    from realign_cli.evaluation.compare import Row
    from realign_cli.evaluation.evaluate import Scores
    from realign_cli.evaluation.ranking import Ranking

_DPI = 120
_BLUE, _ORANGE = "#0072b2", "#e69f00"  # Okabe and Ito
_BINS = 30


def intervals(rows: Sequence[Row]) -> Image.Image:
    """Of each row the difference from the baseline, or the mean where there is none, with its 95 % interval."""
    shown = [(row, row.difference or row.value) for row in rows]
    figure = Figure(figsize=(8, 0.8 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for y, (_, mean) in enumerate(shown):
        axes.plot([mean.low, mean.high], [y, y], color=_BLUE, linewidth=2)
        axes.plot([mean.mean], [y], "o", color=_BLUE, markersize=5)
    axes.set_yticks(range(len(shown)), [f"{row.metric}{_of(row)}  (n {mean.n})" for row, mean in shown], fontsize=8)
    axes.invert_yaxis()
    paired = any(row.difference for row in rows)
    if paired:
        axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("difference from the baseline, 95 % interval" if paired else "mean, 95 % interval")
    return _drawn(figure)


def standings(rankings: Sequence[Ranking]) -> Image.Image:
    """Of each ranking the mean of each system with its 95 % interval, the best on top; a panel for each."""
    return panels(
        [
            (
                f"{ranking.column}, n = {ranking.n}, 95 % interval",
                [(one.system, one.value, one.difference is None) for one in ranking.standings],
            )
            for ranking in rankings
        ]
    )


def panels(shown: Sequence[tuple[str, Sequence[tuple[str, Mean, bool]]]]) -> Image.Image:
    """Panels of means with their 95 % intervals, below a title each: names, means, and which of them stand out."""
    heights = [0.8 + 0.3 * len(means) for _, means in shown]
    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
    drawn = figure.subplots(len(shown), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, means) in zip(drawn, shown, strict=True):
        for y, (_, mean, stands_out) in enumerate(means):
            colour = _ORANGE if stands_out else _BLUE
            axes.plot([mean.low, mean.high], [y, y], color=colour, linewidth=2)
            axes.plot([mean.mean], [y], "o", color=colour, markersize=5)
        axes.set_yticks(range(len(means)), [name for name, *_ in means], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(title, fontsize=9)
    return _drawn(figure)


def values(scores: Scores, baseline: Scores) -> Image.Image:
    """A histogram of the values of each column, and of those of the baseline."""
    columns = list(dict.fromkeys(c for one in scores.values() for c, value in one.items() if value is not None))
    figure = Figure(figsize=(8, 1.8 * len(columns)), layout="constrained")
    for axes, column in zip(figure.subplots(len(columns), squeeze=False)[:, 0], columns, strict=True):
        sets = [[v for one in part.values() if (v := one.get(column)) is not None] for part in (scores, baseline)]
        named = [one for one in zip(sets, ("here", "baseline"), (_BLUE, _ORANGE), strict=True) if one[0]]
        axes.hist([n[0] for n in named], _BINS, label=[n[1] for n in named], color=[n[2] for n in named])
        axes.set_title(column, fontsize=9)
        axes.set_ylabel("images", fontsize=8)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8)
    return _drawn(figure)


def _of(row: Row) -> str:
    return f", {row.category}" if row.category else ""


def _drawn(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return Image.open(buffer).convert("RGB")
