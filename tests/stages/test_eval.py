"""Differences are paired by id, values that do not apply are left out, and every mean says over how many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from realign_cli.records import Item, Record
from realign_cli.stages.eval import Evaluate, Measured, compare, frechet

FINAL = {"1": {"clip": 0.4, "relation": 1.0}, "2": {"clip": 0.6, "relation": None}, "3": {"clip": 0.8, "relation": 0.0}}
COARSE = {"3": {"clip": 0.5}, "2": {"clip": 0.6}, "1": {"clip": 0.5}, "9": {"clip": 0.0}}


class Length:
    """A judge of one column: how long the prompt is."""

    def judge(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, list[float | None]]:
        return {"length": [len(prompt) for prompt in prompts]}


class Judges:
    def judge(self, name: str) -> Length:
        return {"length": Length()}[name]


def test_paired_by_id() -> None:
    clip, relation = compare(FINAL, COARSE)
    assert (clip.metric, clip.value.n, clip.won, clip.lost) == ("clip", 3, 1, 1)
    assert clip.value.mean == pytest.approx(0.6)
    assert clip.baseline is not None and clip.baseline.mean == pytest.approx(1.6 / 3)  # "9" has no partner
    assert clip.difference is not None and clip.difference.mean == pytest.approx(0.2 / 3)
    assert clip.difference.low == pytest.approx(-0.1) and clip.difference.high == pytest.approx(0.3)
    assert (relation.value.n, relation.value.mean, relation.baseline) == (2, 0.5, None)


def test_without_a_baseline() -> None:
    assert [row.difference for row in compare(FINAL, None)] == [None, None]
    assert compare({"1": {"clip": None}}, None) == []


def test_frechet_says_over_how_many() -> None:
    features = np.random.default_rng(0).normal(size=(6, 2))
    moved = features + np.array([3, 0])
    report = frechet(Measured(features=[moved[:2], moved[2:]]), Measured(features=[features]))
    assert report["value"] == pytest.approx(9)
    assert (report["n"], report["n_reference"], report["dimensions"]) == (6, 6, 2)


def test_measures_every_batch() -> None:
    image = Image.new("RGB", (1, 1))
    batches = [[Item(Record(id="a", text="x"), image), Item(Record(id="b", text="xx"), image)]]
    batches.append([Item(Record(id="c", text="xxx"), image)])
    measured = Evaluate(Judges(), ["length"]).measure(batches)  # type: ignore[arg-type]
    assert measured.scores == {"a": {"length": 1}, "b": {"length": 2}, "c": {"length": 3}}
    assert measured.features == []
