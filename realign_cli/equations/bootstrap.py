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
    return percentile_mean(n, float(values.mean()), means)


def two_way_bootstrap(
    votes: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of votes, and what they would be with other raters and other prompts: two arrays, (C,) and (2000, C).

    `votes` (R, P, C) is how many votes a rater gave a choice on a prompt, `counts` (R, P) how many answers. Raters and
    prompts are drawn anew independently of each other, and a pair weighs as often as both were drawn, so that neither
    answers of one rater nor answers on one prompt pass for independent (the pigeonhole bootstrap of Owen 2007, which
    errs towards intervals that are too wide).
    """
    rng = np.random.default_rng(_SEED)
    raters, prompts = (rng.multinomial(n, np.full(n, 1 / n), _RESAMPLES).astype(np.float64) for n in counts.shape)
    answers = ((raters @ counts) * prompts).sum(axis=1)
    drawn = [((raters @ votes[..., c]) * prompts).sum(axis=1) for c in range(votes.shape[-1])]
    kept = answers > 0  # raters and prompts may be drawn that never met
    return votes.sum(axis=(0, 1)) / counts.sum(), np.stack(drawn, axis=1)[kept] / answers[kept, None]


def percentile_mean(n: int, mean: float, drawn: NDArray[np.float64]) -> Mean:
    """A mean over n values with the interval that its resamples `drawn` (B,) give."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Mean(n, float(mean), float(low), float(high))
