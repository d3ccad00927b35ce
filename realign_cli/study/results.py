"""Answers -> shares of systems with intervals, agreement of raters, and who was left out and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from realign_cli.equations.agreement import fleiss_kappa, krippendorff_alpha
from realign_cli.equations.clustered import two_way_mean

if TYPE_CHECKING:
    from realign_cli.equations.bootstrap import Mean
    from realign_cli.study.answers import Answer
    from realign_cli.study.design import Item, Rater, Study

NONE = "none of them"
_CAREFUL = 0.8  # share of attention checks that a rater has to get right


@dataclass(frozen=True)
class Share:
    """The share of answers that name a system; `difference` is to the first system, answer by answer."""

    system: str
    share: Mean
    difference: Mean | None


@dataclass(frozen=True)
class Agreement:
    """How far raters agree, over the items that at least two answered; None where that has no meaning."""

    items: int
    fleiss_kappa: float | None
    krippendorff_alpha: float | None


@dataclass(frozen=True)
class Tally:
    """The answers to one question about images of the same systems; in the form "pairwise" these are two."""

    question: str
    systems: tuple[str, ...]
    answers: int
    raters: int
    prompts: int
    shares: list[Share]
    agreement: Agreement


@dataclass(frozen=True)
class Account:
    """What one rater did: `number` counts links from 1; `left_out` says why the answers do not count, if so."""

    number: int
    answers: int
    asked: int
    checks: int
    checks_right: int
    seconds: float | None
    left_out: str | None


@dataclass(frozen=True)
class Results:
    """All that a study has found so far; `complaints` are what was no answer."""

    tallies: list[Tally]
    raters: list[Account]
    complaints: list[str]


def results(study: Study, answers: Mapping[str, Sequence[Answer]], complaints: Sequence[str] = ()) -> Results:
    """Count the answers, by the token of each rater. Answers of raters who are not done count too.

    Left out are raters who got less than four fifths of the attention checks right that they came to, or came to none.
    """
    accounts = [
        _account(study, number, rater, answers[rater.token])
        for number, rater in enumerate(study.raters, 1)
        if answers.get(rater.token)
    ]
    counted = [study.raters[one.number - 1] for one in accounts if one.left_out is None]
    given = [(r, rater, answer) for r, rater in enumerate(counted) for answer in answers[rater.token]]
    tallies = []
    for question in study.questions:
        for systems in dict.fromkeys(item.systems for item in study.items if item.right is None):
            votes = [
                _Vote(r, item, answer.choice)
                for r, rater, answer in given
                if answer.question == question and (item := _item(study, rater, answer)).systems == systems
            ]
            if votes:
                tallies.append(_tally(question, systems, votes, none=study.form == "all"))
    return Results(tallies, accounts, list(complaints))


@dataclass(frozen=True)
class _Vote:
    rater: int
    item: Item
    choice: str | None

    @property
    def index(self) -> int:
        """The first system that made the chosen image; the number of systems for none."""
        return len(self.item.images) if self.choice is None else self.item.images.index(self.choice)


def _item(study: Study, rater: Rater, answer: Answer) -> Item:
    return study.items[rater.trials[answer.trial].item]


def _account(study: Study, number: int, rater: Rater, answers: Sequence[Answer]) -> Account:
    checks: dict[int, bool] = {}
    for answer in answers:
        right = _item(study, rater, answer).right
        if right is not None:
            checks[answer.trial] = checks.get(answer.trial, True) and answer.choice == right
    well = sum(checks.values())
    reason = None
    if not checks:
        reason = "came to no attention check"
    elif well < _CAREFUL * len(checks):
        reason = f"failed {len(checks) - well} of {len(checks)} attention checks"
    seconds = median(answer.ms for answer in answers) / 1000 if answers else None
    asked = len(rater.trials) * len(study.questions)
    return Account(number, len(answers), asked, len(checks), well, seconds, reason)


def _tally(question: str, systems: tuple[str, ...], votes: Sequence[_Vote], *, none: bool) -> Tally:
    raters = {r: i for i, r in enumerate(sorted({vote.rater for vote in votes}))}
    prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(vote.item.prompt for vote in votes))}
    labels = [*systems, NONE] if none else list(systems)
    shared = np.zeros((len(raters), len(prompts), len(labels)))
    counts = np.zeros((len(raters), len(prompts)))
    by_item = np.zeros((len(prompts), len(labels)), np.int64)
    for vote in votes:
        r, p = raters[vote.rater], prompts[vote.item.prompt]
        chosen = [i for i, name in enumerate(vote.item.images) if name == vote.choice] or [vote.index]
        shared[r, p, chosen] += 1 / len(chosen)  # systems that made the same image share its vote
        counts[r, p] += 1
        by_item[p, vote.index] += 1
    shares = [
        Share(
            label,
            two_way_mean(shared[..., i], counts, 0, 1),
            two_way_mean(shared[..., i] - shared[..., 0], counts, -1, 1) if 0 < i < len(systems) else None,
        )
        for i, label in enumerate(labels)
    ]
    several = int((by_item.sum(axis=1) >= 2).sum())
    agreement = Agreement(several, fleiss_kappa(by_item), krippendorff_alpha(by_item))
    return Tally(question, systems, len(votes), len(raters), len(prompts), shares, agreement)
