"""Images and prompts -> measured quality: one value per image and column, then means, intervals and differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realign_cli.equations.statistics import Mean, bootstrap_mean, frechet_distance
from realign_cli.records import Item
from realign_cli.roles import Models

FID = "fid"
Scores = dict[str, dict[str, float | None]]  # record id -> column -> value


@dataclass
class Measured:
    """What was measured of one folder: values per image, and features where a Frechet distance is wanted."""

    scores: Scores = field(default_factory=dict)
    features: list[NDArray[np.float64]] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """One line of the report. Differences are paired by record id: `won` of the pairs rose, `lost` fell."""

    metric: str
    value: Mean
    baseline: Mean | None = None
    difference: Mean | None = None
    won: int = 0
    lost: int = 0


class Evaluate:
    """Measures batches of items with the judges named, and the features for `fid`."""

    def __init__(self, models: Models, metrics: Sequence[str]) -> None:
        self._models = models
        self._judges = [name for name in metrics if name != FID]
        self._fid = FID in metrics

    def measure(self, batches: Iterable[Sequence[Item]]) -> Measured:
        measured = Measured()
        for items in batches:
            images = [item.image for item in items if item.image]
            prompts = [item.record.text for item in items]
            columns: dict[str, list[float | None]] = {}
            for name in self._judges:
                columns |= self._models.judge(name).judge(images, prompts)
            for i, item in enumerate(items):
                measured.scores[item.record.id] = {column: values[i] for column, values in columns.items()}
            if self._fid:
                measured.features.append(self._models.features.features(images))
        return measured


def compare(scores: Scores, baseline: Scores | None) -> list[Row]:
    """Means of each column, and against a baseline the paired differences over the ids that both have."""
    columns = dict.fromkeys(column for values in scores.values() for column in values)
    return [_row(column, scores, baseline) for column in columns if _values(column, scores)]


def frechet(measured: Measured, reference: Measured) -> dict[str, Any]:
    """The Frechet distance of two folders, with the number of images of each."""
    a, b = np.concatenate(measured.features), np.concatenate(reference.features)
    return {"value": frechet_distance(a, b), "n": len(a), "n_reference": len(b), "dimensions": a.shape[1]}


def _row(column: str, scores: Scores, baseline: Scores | None) -> Row:
    own = _values(column, scores)
    value = bootstrap_mean(np.array(list(own.values())))
    other = _values(column, baseline or {})
    shared = [i for i in own if i in other]
    if not shared:
        return Row(column, value)
    change = np.array([own[i] - other[i] for i in shared])
    before = bootstrap_mean(np.array([other[i] for i in shared]))
    return Row(column, value, before, bootstrap_mean(change), int((change > 0).sum()), int((change < 0).sum()))


def _values(column: str, scores: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    return {i: value for i, values in scores.items() if (value := values.get(column)) is not None}
