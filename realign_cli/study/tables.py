"""Results as tables for the screen, for Markdown and for LaTeX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realign_cli.evaluation.typeset import latex_table, markdown_table
from realign_cli.study.design import QUESTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realign_cli.equations.bootstrap import Mean
    from realign_cli.study.design import Study
    from realign_cli.study.results import Account, Results, Tally

COLUMNS = ("", "share", "95 %", "difference", "95 %")
RATERS = ("rater", "answers", "checks right", "median time")


def title(study: Study, tally: Tally) -> str:
    """What a table is of."""
    asked = QUESTIONS[tally.question].asked(study.form)
    count = f"{tally.answers} answers of {tally.raters} raters on {tally.prompts} prompts"
    return f"{tally.question}: {asked} {count}"


def cells(tally: Tally) -> list[list[str]]:
    """A line for each system under COLUMNS; differences are to the first, in points."""
    return [
        [one.system, *_percent(one.share), *(_percent(one.difference, "+") if one.difference else ["", ""])]
        for one in tally.shares
    ]


def agreement_line(tally: Tally) -> str:
    """How far raters agree, in words."""
    one = tally.agreement
    kappa, alpha = (
        "undefined" if value is None else f"{value:.3f}" for value in (one.fleiss_kappa, one.krippendorff_alpha)
    )
    numbers = f"Fleiss' kappa {kappa}, Krippendorff's alpha {alpha}"
    return f"agreement: {numbers}, on {one.items} prompts with two answers or more"


def rater_cells(raters: Sequence[Account]) -> list[list[str]]:
    """A line for each rater under RATERS."""
    return [
        [
            str(one.number),
            f"{one.answers} of {one.asked}",
            f"{one.checks_right} of {one.checks}",
            "" if one.seconds is None else f"{one.seconds:.1f} s",
        ]
        for one in raters
    ]


def notes(study: Study, found: Results) -> list[str]:
    """Who took part, who was left out, and what was no answer."""
    out = [one for one in found.raters if one.left_out]
    done = sum(one.answers == one.asked for one in found.raters)
    lines = [
        f"raters: {len(found.raters)} of {len(study.raters)} began, {done} answered everything, {len(out)} left out"
    ]
    lines += [f"rater {one.number} is left out: {one.left_out}" for one in out]
    return lines + found.complaints


def markdown(study: Study, found: Results) -> str:
    """The table of each question, and below it who agrees and who was left out."""
    parts = []
    for tally in found.tallies:
        parts += [
            f"**{title(study, tally)}**",
            "",
            markdown_table(COLUMNS, cells(tally)),
            "",
            agreement_line(tally),
            "",
        ]
    parts += [f"- {line}" for line in notes(study, found)]
    return "\n".join(parts) + "\n"


def latex(study: Study, found: Results) -> str:
    """The table of each question, for the package booktabs."""
    return "\n".join(latex_table(COLUMNS, cells(tally), title(study, tally)) for tally in found.tallies)


def _percent(mean: Mean, sign: str = "") -> list[str]:
    return [f"{100 * mean.mean:{sign}.1f}", f"{100 * mean.low:{sign}.1f} to {100 * mean.high:{sign}.1f}"]
