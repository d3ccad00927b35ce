"""Differences are paired by id, values that do not apply are left out, and every mean says over how many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from realign_cli.evaluation.compare import by_prompt, categories, compare, worst
from realign_cli.records import Record

if TYPE_CHECKING:
    from realign_cli.evaluation.evaluate import Scores

FINAL = {"1": {"clip": 0.4, "relation": 1.0}, "2": {"clip": 0.6, "relation": None}, "3": {"clip": 0.8, "relation": 0.0}}
COARSE = {"3": {"clip": 0.5}, "2": {"clip": 0.6}, "1": {"clip": 0.5}, "9": {"clip": 0.0}}


def test_paired_by_id() -> None:
    clip, relation = compare(FINAL, COARSE)
    assert (clip.metric, clip.value.n, clip.won, clip.lost) == ("clip", 3, 1, 1)
    assert clip.value.mean == pytest.approx(0.6)
    assert clip.baseline is not None and clip.baseline.mean == pytest.approx(1.6 / 3)  # "9" has no partner
    assert clip.difference is not None and clip.difference.mean == pytest.approx(0.2 / 3)
    assert clip.difference.low == pytest.approx(-0.1) and clip.difference.high == pytest.approx(0.3)
    assert clip.win_rate is not None and clip.win_rate.mean == 0.5  # one rose, one fell, one is half
    assert (relation.value.n, relation.value.mean, relation.baseline) == (2, 0.5, None)


def test_images_of_a_prompt_count_as_their_mean() -> None:
    records = [Record(id="7", text="a"), Record(id="8", text="b")]
    draws = [*records, Record(id="7-1", text="a", prompt_id="7"), Record(id="7-2", text="a", prompt_id="7")]
    scores: Scores = {"7": {"clip": 0.1, "relation": None}, "8": {"clip": 0.7, "relation": None}}
    more: Scores = {"7-1": {"clip": 0.2, "relation": 1.0}, "7-2": {"clip": 0.6, "relation": 0.0}}
    assert by_prompt(scores, {record.id: record.prompt_key for record in records}) == scores
    together = by_prompt(scores | more, {record.id: record.prompt_key for record in draws})
    assert together == {"7": {"clip": pytest.approx(0.3), "relation": 0.5}, "8": scores["8"]}
    clip, relation = compare(together, scores)
    assert clip.difference is not None and clip.difference.mean == pytest.approx(0.1)
    assert (clip.value.n, clip.difference.n, relation.value.n) == (2, 2, 1)  # prompts, not images


def test_without_a_baseline() -> None:
    assert [row.difference for row in compare(FINAL, None)] == [None, None]
    assert compare({"1": {"clip": None}}, None) == []


def test_categories_that_tell_something_are_rows() -> None:
    rows = compare(FINAL, COARSE, {"colour": ["1", "3"], "all": ["1", "2", "3"], "none": ["9"], "third": ["2"]})
    assert [(row.metric, row.category, row.value.n) for row in rows] == [
        ("clip", None, 3),
        ("clip", "colour", 2),
        ("clip", "third", 1),
        ("relation", None, 2),
    ]
    assert rows[1].difference is not None and rows[1].difference.mean == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a dog", ["short, up to 8 words"]),
        ("Two red apples", ["colour", "number", "short, up to 8 words"]),
        ("a circle left of a ring", ["shape", "relation", "short, up to 8 words"]),
        ("a colourful belief in 3 bored reds, an overgrown garden", ["colour", "number", "middle, 9 to 16 words"]),
        ("word " * 17, ["long, over 16 words"]),
    ],
)
def test_categories_of_a_prompt(text: str, found: list[str]) -> None:
    assert categories(Record(id="0", text=text)) == found
    assert categories(Record(id="0", text=text, category="mine")) == ["mine", *found]


def test_worst_first() -> None:
    before = {str(i): {"clip": 0.5} for i in range(4)}
    after = {"0": {"clip": 0.4}, "1": {"clip": 0.1}, "2": {"clip": 0.9}, "3": {"clip": None}, "4": {"clip": 0.0}}
    found = worst(after, before)
    assert [(drop.rank, drop.id, drop.value) for drop in found] == [(0, "1", 0.1), (1, "0", 0.4)]
    assert [drop.id for drop in worst(after, before, 1)] == ["1"]
