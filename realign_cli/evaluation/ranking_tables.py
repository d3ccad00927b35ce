"""Rankings as tables for the screen, for Markdown and for LaTeX, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from realign_cli.evaluation.report import mean_cells
from realign_cli.evaluation.typeset import latex_table, markdown_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from realign_cli.evaluation.ranking import Ranking, Standing

_COLUMNS = ("", "system", "mean", "95 %", "difference", "95 %", "win rate", "p", "passes")
_MORE: Mapping[str, Callable[[Standing], str]] = {  # columns that are there where one of the systems has a value
    "seconds": lambda one: "" if one.seconds is None else f"{one.seconds:.2f}",
    "GB": lambda one: "" if one.memory is None else f"{one.memory / 1e9:.2f}",
    "FID": lambda one: "" if one.fid is None else f"{one.fid:.3f}",
}
_SURE = 0.05  # p below which a duel is marked


def title(ranking: Ranking) -> str:
    """What a table is of."""
    left_out = f"; {ranking.left_out} that only some have are left out" if ranking.left_out else ""
    return f"{ranking.column}, n = {ranking.n} prompts{left_out}"


def columns(ranking: Ranking) -> Sequence[str]:
    """The heads of `cells`."""
    return (*_COLUMNS, *_further(ranking))


def cells(ranking: Ranking) -> list[list[str]]:
    """A line for each system under `columns`; difference, win rate and p are against the one that was named first.

    Names of systems with a note end in *.
    """
    first = next(one.system for one in ranking.standings if one.difference is None)
    return [_line_of(ranking, one, first) for one in ranking.standings]


def notes(rankings: Sequence[Ranking]) -> list[str]:
    """What must be known of some systems to read their tables fairly."""
    noted = {one.system: one.note for ranking in rankings for one in ranking.standings if one.note}
    return [f"* {system}: {note}" for system, note in noted.items()]


def duel_cells(ranking: Ranking) -> list[list[str]]:
    """The share of prompts that the system of a line wins from that of a column; * where p is below 0.05."""
    names = [one.system for one in ranking.standings]
    rates = {(duel.first, duel.second): (duel.win_rate, duel.adjusted) for duel in ranking.duels}
    rates |= {(two, one): (1 - rate, p) for (one, two), (rate, p) in rates.items()}
    marked = {pair: f"{rate:.2f}{'*' if p < _SURE else ''}" for pair, (rate, p) in rates.items()}
    return [[one, *(marked.get((one, other), "") for other in names)] for one in names]


def markdown(rankings: Sequence[Ranking]) -> str:
    """A table of the standings of each ranking, and of all duels where there are several; then the notes."""
    lines = [line for ranking in rankings for line in _markdown(ranking)]
    return "\n".join([*lines, *(f"- \\{line}" for line in notes(rankings))])


def latex(rankings: Sequence[Ranking]) -> str:
    """A table of the standings of each ranking, for the package booktabs; then the notes, as comments."""
    tables = [latex_table(columns(one), cells(one), title(one), alignment="rl") for one in rankings]
    return "\n".join([*tables, *(f"% {line}" for line in notes(rankings))])


def as_dict(ranking: Ranking) -> dict[str, Any]:
    """All of a ranking, as JSON has it."""
    return asdict(ranking) | {"duels": [asdict(duel) | {"win_rate": duel.win_rate} for duel in ranking.duels]}


def _further(ranking: Ranking) -> list[str]:
    return [head for head, cell in _MORE.items() if any(map(cell, ranking.standings))]


def _line_of(ranking: Ranking, one: Standing, first: str) -> list[str]:
    line = [str(one.rank), one.system + "*" * bool(one.note), *mean_cells(one.value)]
    line += mean_cells(one.difference, "+") if one.difference else ["", ""]
    duel = next((duel for duel in ranking.duels if {duel.first, duel.second} == {one.system, first}), None)
    rate = duel and (duel.win_rate if duel.first == one.system else 1 - duel.win_rate)
    line += [f"{rate:.3f}", f"{duel.adjusted:.2g}"] if duel and rate is not None else ["", ""]
    line += ["" if one.passes is None else f"{one.passes:.2f}"]
    return line + [_MORE[head](one) for head in _further(ranking)]


def _markdown(ranking: Ranking) -> Iterator[str]:
    yield from (f"**{title(ranking)}**", "", markdown_table(columns(ranking), cells(ranking)), "")
    if len(ranking.duels) > 1:
        rows = duel_cells(ranking)
        yield from (markdown_table(["wins", *(row[0] for row in rows)], rows), "")
