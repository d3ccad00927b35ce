"""Rankings as tables for the screen, for Markdown and for LaTeX, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from realign_cli.evaluation.report import mean_cells
from realign_cli.evaluation.typeset import latex_table, markdown_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from realign_cli.evaluation.ranking import Ranking, Standing

COLUMNS = ("", "system", "mean", "95 %", "difference", "95 %", "win rate", "p", "passes")
_SURE = 0.05  # p below which a duel is marked


def title(ranking: Ranking) -> str:
    """What a table is of."""
    left_out = f"; {ranking.left_out} that only some have are left out" if ranking.left_out else ""
    return f"{ranking.column}, n = {ranking.n} prompts{left_out}"


def cells(ranking: Ranking) -> list[list[str]]:
    """A line for each system under COLUMNS; difference, win rate and p are against the one that was named first."""
    first = next(one.system for one in ranking.standings if one.difference is None)
    return [_line_of(ranking, one, first) for one in ranking.standings]


def duel_cells(ranking: Ranking) -> list[list[str]]:
    """The share of prompts that the system of a line wins from that of a column; * where p is below 0.05."""
    names = [one.system for one in ranking.standings]
    rates = {(duel.first, duel.second): (duel.win_rate, duel.adjusted) for duel in ranking.duels}
    rates |= {(two, one): (1 - rate, p) for (one, two), (rate, p) in rates.items()}
    marked = {pair: f"{rate:.2f}{'*' if p < _SURE else ''}" for pair, (rate, p) in rates.items()}
    return [[one, *(marked.get((one, other), "") for other in names)] for one in names]


def markdown(rankings: Sequence[Ranking]) -> str:
    """A table of the standings of each ranking, and of all duels where there are several."""
    return "\n".join(line for ranking in rankings for line in _markdown(ranking))


def latex(rankings: Sequence[Ranking]) -> str:
    """A table of the standings of each ranking, for the package booktabs."""
    return "\n".join(latex_table(COLUMNS, cells(ranking), title(ranking), alignment="rl") for ranking in rankings)


def as_dict(ranking: Ranking) -> dict[str, Any]:
    """All of a ranking, as JSON has it."""
    return asdict(ranking) | {"duels": [asdict(duel) | {"win_rate": duel.win_rate} for duel in ranking.duels]}


def _line_of(ranking: Ranking, one: Standing, first: str) -> list[str]:
    line = [str(one.rank), one.system, *mean_cells(one.value)]
    line += mean_cells(one.difference, "+") if one.difference else ["", ""]
    duel = next((duel for duel in ranking.duels if {duel.first, duel.second} == {one.system, first}), None)
    rate = duel and (duel.win_rate if duel.first == one.system else 1 - duel.win_rate)
    line += [f"{rate:.3f}", f"{duel.adjusted:.2g}"] if duel and rate is not None else ["", ""]
    return [*line, "" if one.passes is None else f"{one.passes:.2f}"]


def _markdown(ranking: Ranking) -> Iterator[str]:
    yield from (f"**{title(ranking)}**", "", markdown_table(COLUMNS, cells(ranking)), "")
    if len(ranking.duels) > 1:
        rows = duel_cells(ranking)
        yield from (markdown_table(["wins", *(row[0] for row in rows)], rows), "")
