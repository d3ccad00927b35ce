"""Values of each image -> rows of means, paired differences, win rates, and the worst regressions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from realign_cli.equations.bootstrap import Mean, bootstrap_mean

if TYPE_CHECKING:
    from realign_cli.evaluation.evaluate import Scores
    from realign_cli.records import Record

# A prompt is in a category if it has one of its words. They are few and plain on purpose: a rule that can be read.
_WORDS = {
    "colour": "red orange yellow green blue purple violet pink brown black white grey gray silver gold golden cyan",
    "shape": "circle square triangle cross ring sphere cube cone cylinder pyramid rectangle oval star round circular "
    "rectangular triangular spherical cubic",
    "number": r"two three four five six seven eight nine ten eleven twelve several \d+",
    "relation": "left right above below under beneath behind beside near between top inside",
}
_PATTERNS = {name: re.compile(rf"\b({'|'.join(words.split())})s?\b", re.IGNORECASE) for name, words in _WORDS.items()}
_LENGTHS = ((8, "short, up to 8 words"), (16, "middle, 9 to 16 words"))
_LONG = "long, over 16 words"


@dataclass(frozen=True)
class Row:
    """One line of the report: a column over all prompts, or over those of one category.

    Differences are paired by prompt: `won` of the pairs rose, `lost` fell, and `win_rate` is the share that rose
    with ties as half.
    """

    metric: str
    value: Mean
    baseline: Mean | None = None
    difference: Mean | None = None
    win_rate: Mean | None = None
    won: int = 0
    lost: int = 0
    category: str | None = None


@dataclass(frozen=True)
class Drop:
    """A prompt, by its id, whose value fell against the baseline; of its metric, `rank` 0 fell furthest."""

    rank: int
    metric: str
    id: str
    value: float
    baseline: float


def categories(record: Record) -> list[str]:
    """The record's own category, if it has one; kinds of words in its prompt; and how long the prompt is."""
    text = record.text
    length = len(text.split())
    size = next((name for most, name in _LENGTHS if length <= most), _LONG)
    found = [name for name, pattern in _PATTERNS.items() if pattern.search(text)]
    return [*filter(None, [record.category]), *found, size]


def by_prompt(scores: Scores, prompts: Mapping[str, str]) -> Scores:
    """The mean of each column over the images of a prompt, by the prompt's id; one image has its own values.

    `prompts` has the id of each record's prompt. Images of one prompt are no independent measurements of a model, so
    means and intervals are over prompts.
    """
    groups: dict[str, list[Mapping[str, float | None]]] = {}
    for record_id, prompt_id in prompts.items():
        groups.setdefault(prompt_id, []).append(scores[record_id])
    return {prompt_id: {c: _mean_of(c, images) for c in images[0]} for prompt_id, images in groups.items()}


def _mean_of(column: str, images: Iterable[Mapping[str, float | None]]) -> float | None:
    values = [value for one in images if (value := one.get(column)) is not None]
    return sum(values) / len(values) if values else None


def compare(scores: Scores, baseline: Scores | None, members: Mapping[str, Iterable[str]] | None = None) -> list[Row]:
    """Means of each column and, against a baseline, the paired differences over the prompts that both have.

    `members` maps a category to ids; a category that holds none with a value, or every one, adds no row.
    """
    rows = []
    for column in dict.fromkeys(column for values in scores.values() for column in values):
        own, other = _values(column, scores), _values(column, baseline or {})
        if not own:
            continue
        rows.append(_row(column, own, other))
        for category, ids in (members or {}).items():
            some = {i: own[i] for i in ids if i in own}
            if 0 < len(some) < len(own):
                rows.append(_row(column, some, other, category))
    return rows


def worst(scores: Scores, baseline: Scores, count: int = 10) -> list[Drop]:
    """Of each column, the `count` prompts that fell furthest, worst first."""
    found = []
    for column in dict.fromkeys(column for values in scores.values() for column in values):
        own, other = _values(column, scores), _values(column, baseline)
        fallen = sorted((i for i in own if i in other and own[i] < other[i]), key=lambda i: own[i] - other[i])
        found += [Drop(rank, column, i, own[i], other[i]) for rank, i in enumerate(fallen[:count])]
    return found


def _row(column: str, own: Mapping[str, float], other: Mapping[str, float], category: str | None = None) -> Row:
    value = _mean(list(own.values()))
    shared = [i for i in own if i in other]
    if not shared:
        return Row(column, value, category=category)
    change = np.array([own[i] - other[i] for i in shared])
    return Row(
        column,
        value,
        baseline=_mean([other[i] for i in shared]),
        difference=_mean(change),
        win_rate=_mean((np.sign(change) + 1) / 2),
        won=int((change > 0).sum()),
        lost=int((change < 0).sum()),
        category=category,
    )


def _mean(values: Sequence[float] | np.ndarray) -> Mean:
    return bootstrap_mean(np.asarray(values, np.float64))


def _values(column: str, scores: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    return {i: value for i, values in scores.items() if (value := values.get(column)) is not None}
