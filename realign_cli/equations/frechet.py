"""The Frechet distance of two sets of features, the number of FID (Heusel et al. 2017), in float64.

The trace of (C_a C_b)^(1/2) is the sum of the singular values of F_a F_b^T for any F with F^T F = C. That needs no
general matrix root, hence no complex numbers and no term added to the diagonal of a singular covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_CHUNK = 1024  # rows held in float64 at a time


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and covariance of n features (n is None where a file does not tell it), by one of two arrays.

    Either `known`, the covariance (D, D), divided by n - 1; or `factor` (n, D), the centred features over sqrt(n - 1),
    for n <= D: such a covariance is singular, its factor is exact and smaller.
    """

    mean: Array
    known: Array | None = None
    n: int | None = None
    factor: Array | None = None

    @cached_property
    def covariance(self) -> Array:
        if self.known is not None:
            return self.known
        assert self.factor is not None
        return self.factor.T @ self.factor

    @property
    def variance(self) -> float:
        """The trace of the covariance."""
        return float(np.trace(self.covariance) if self.factor is None else (self.factor * self.factor).sum())


def moments(features: NDArray[np.floating]) -> Moments:
    """Moments of `features` (n, D), n >= 2, which may be a memory map: 1,024 rows are copied at a time."""
    n, width = features.shape
    if n < 2:
        raise ValueError(f"a covariance needs at least 2 features, not {n}")
    chunks = [slice(start, start + _CHUNK) for start in range(0, n, _CHUNK)]
    mean = sum((features[chunk].sum(0, dtype=np.float64) for chunk in chunks), np.zeros(width)) / n
    if n <= width:
        return Moments(mean, None, n, (features - mean) / np.sqrt(n - 1))
    covariance = np.zeros((width, width))
    for chunk in chunks:
        centred = features[chunk] - mean
        covariance += centred.T @ centred
    return Moments(mean, covariance / (n - 1), n)


def frechet(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

    For two sets of no more than D features each the root is one n x m singular value problem, otherwise one symmetric
    eigenproblem of at most D x D.
    """
    if a.factor is not None and b.factor is not None:
        cross = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum()
    else:
        one, other = (b, a) if a.factor is None and b.factor is not None else (a, b)
        factor = _root(one.covariance) if one.factor is None else one.factor
        values = np.linalg.eigvalsh(factor @ other.covariance @ factor.T)
        cross = np.sqrt(np.clip(values, 0, None)).sum()
    shift = a.mean - b.mean
    return float(shift @ shift + a.variance + b.variance - 2 * cross)


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """`frechet` of features (n, D) and (m, D)."""
    return frechet(moments(a), moments(b))


def _root(covariance: Array) -> Array:
    """F (k, D) with F^T F = covariance; a covariance that is singular loses the directions that have no variance."""
    try:
        factor = np.asarray(np.linalg.cholesky(covariance).T, np.float64)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
        factor = (vectors[:, kept] * np.sqrt(values[kept])).T
    return factor
