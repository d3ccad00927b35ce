"""Means with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RESAMPLES = 2000
_SEED = 0


@dataclass(frozen=True)
class Mean:
    """A mean over n values and its 95 % percentile bootstrap interval [low, high] (Efron 1979)."""

    n: int
    mean: float
    low: float
    high: float


def bootstrap_mean(values: NDArray[np.float64]) -> Mean:
    """The mean of `values` (n,) with its interval from 2,000 resamples at a fixed seed; n must be at least 1."""
    rng = np.random.default_rng(_SEED)
    n = len(values)
    means = np.array([values[rng.integers(n, size=n)].mean() for _ in range(_RESAMPLES)])
    low, high = np.percentile(means, [2.5, 97.5])
    return Mean(n, float(values.mean()), float(low), float(high))
