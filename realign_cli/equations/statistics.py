"""Means with bootstrap intervals, and the Frechet distance of two sets of features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """|mu_a - mu_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of features (n, D) and (m, D), n, m >= 2; Heusel et al. 2017.

    The trace of the root is the nuclear norm of C_a^(1/2) C_b^(1/2): no general matrix root, no complex numbers.
    """
    roots, trace = [], 0.0
    for features in (a, b):
        covariance = np.atleast_2d(np.cov(features, rowvar=False))
        values, vectors = np.linalg.eigh(covariance)
        roots.append((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)
        trace += float(np.trace(covariance))
    shift = a.mean(axis=0) - b.mean(axis=0)
    return float(shift @ shift) + trace - 2 * float(np.linalg.norm(roots[0] @ roots[1], "nuc"))
