"""Each model is asked once about an image, in full batches, and what it said is remembered by what it depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from realign_cli.evaluation.evaluate import EvalInput, Evaluate
from realign_cli.records import Pair, Record

IMAGE = Image.new("RGB", (1, 1))


class DictCache(dict[str, bytes]):
    def put(self, answers: Mapping[str, bytes]) -> None:
        self.update(answers)


class Rows(dict[int, bytes]):
    def put(self, index: int, row: bytes) -> None:
        self[index] = row


class Length:
    """A metric of one column: how long the prompt is; it reads 4 letters."""

    note = "letters"

    def __init__(self, fingerprint: str | None = "length") -> None:
        self.fingerprint = fingerprint
        self.batches: list[int] = []

    def measure(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, list[float | None]]:
        assert len(images) == len(prompts)
        self.batches.append(len(images))
        return {"length": [len(prompt) if prompt != "-" else None for prompt in prompts]}

    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        return [len(prompt) > 4 for prompt in prompts]


class Width:
    """Features: the width of the image."""

    name, fingerprint = "width", "width"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        self.batches.append(len(images))
        return np.array([[image.width, 1.0] for image in images])


def models(metric: Length, features: Width | None = None) -> Any:
    return SimpleNamespace(metric=lambda name: {"length": metric}[name], features=features)


def inputs(*texts: str, first: int = 0) -> list[EvalInput]:
    return [EvalInput(Record(id=str(i), text=text), f"image {i}", IMAGE) for i, text in enumerate(texts, first)]


def test_full_batches_in_the_order_of_the_input() -> None:
    metric = Length()
    measured = Evaluate(models(metric), ["length"], DictCache(), 2).measure(inputs("x", "xx", "xxxxx"))
    assert measured.scores == {"0": {"length": 1}, "1": {"length": 2}, "2": {"length": 5}}
    assert list(measured.scores) == ["0", "1", "2"]
    assert measured.truncated == {"length": 1}
    assert metric.batches == [2, 1]


def test_only_what_is_new_is_computed() -> None:
    cache, rows = DictCache(), Rows()
    Evaluate(models(Length(), Width()), ["length", "fid"], cache, 4).measure(inputs(*["a"] * 50), rows)
    metric, width, again = Length(), Width(), Rows()
    evaluate = Evaluate(models(metric, width), ["length", "fid"], cache, 4)
    more = inputs(*["a"] * 50, "b")
    known = [evaluate.is_cached(given.record, given.digest) for given in more]
    assert known == [True] * 50 + [False]
    bare = [EvalInput(given.record, given.digest, None if k else IMAGE) for given, k in zip(more, known, strict=True)]
    measured = evaluate.measure(bare, again)
    assert metric.batches == width.batches == [1]
    assert measured.scores["50"] == {"length": 1} and len(measured.scores) == 51
    assert {i: again[i] for i in range(50)} == rows
    assert np.frombuffer(again[50], "<f4").tolist() == [1, 1]


@pytest.mark.parametrize("change", ["weights", "prompt", "image"])
def test_what_an_answer_depends_on_makes_it_new(change: str) -> None:
    cache = DictCache()
    Evaluate(models(Length()), ["length"], cache, 4).measure(inputs("a"))
    metric = Length("other weights" if change == "weights" else "length")
    given = inputs("b" if change == "prompt" else "a")[0]
    changed = EvalInput(given.record, "another" if change == "image" else given.digest, IMAGE)
    Evaluate(models(metric), ["length"], cache, 4).measure([changed])
    assert metric.batches == [1]


def test_a_metric_without_a_fingerprint_is_always_asked() -> None:
    cache, metric = DictCache(), Length(None)
    for _ in range(2):
        evaluate = Evaluate(models(metric), ["length"], cache, 4)
        assert not evaluate.is_cached(Record(id="0", text="a"), "image 0")
        evaluate.measure(inputs("a"))
    assert metric.batches == [1, 1] and not cache


def test_pairs_ask_for_the_other_prompt_as_well() -> None:
    records = [
        Record(id="a", text="long", pair=Pair(id="0", text="no")),
        Record(id="b", text="no", pair=Pair(id="0", text="long")),
        Record(id="c", text="-", pair=Pair(id="1", text="x")),
        Record(id="d", text="alone"),
    ]
    cache = DictCache()
    measured = Evaluate(models(Length()), ["length"], cache, 3).measure(EvalInput(r, r.id, IMAGE) for r in records)
    assert measured.scores == {
        "a": {"length": 4, "length_prefers_own": 1.0},
        "b": {"length": 2, "length_prefers_own": 0.0},
        "c": {"length": None, "length_prefers_own": None},
        "d": {"length": 5},
    }
    assert measured.truncated == {"length": 1}  # of the prompts of the images
    assert sorted(json.loads(answer)[0]["length"] or 0 for answer in cache.values()) == [0, 1, 2, 2, 4, 4, 5]
