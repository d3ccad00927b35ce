"""Plots for people: intervals of rows, and how values are spread. Numbers in, PIL images out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

if TYPE_CHECKING:
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
    height = 0.8 + 0.3 * len(rankings[0].standings)
    figure = Figure(figsize=(8, height * len(rankings)), layout="constrained")
    for axes, ranking in zip(figure.subplots(len(rankings), squeeze=False)[:, 0], rankings, strict=True):
        for y, one in enumerate(ranking.standings):
            colour = _ORANGE if one.difference is None else _BLUE
            axes.plot([one.value.low, one.value.high], [y, y], color=colour, linewidth=2)
            axes.plot([one.value.mean], [y], "o", color=colour, markersize=5)
        axes.set_yticks(range(len(ranking.standings)), [one.system for one in ranking.standings], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(f"{ranking.column}, n = {ranking.n}, 95 % interval", fontsize=9)
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
