"""The Frechet distance of two sets of features, the number of FID (Heusel et al. 2017), in float64.

The trace of (C_a C_b)^(1/2) is the sum of the singular values of F_a F_b^T for any F with F^T F = C. That needs no
general matrix root, hence no complex numbers and no term added to the diagonal of a singular covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_CHUNK = 1024  # rows held in float64 at a time


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and covariance (D, D), divided by n - 1, of n features; n is None where a file does not tell it.

    `factor` (n, D) are the centred features over sqrt(n - 1), kept where n <= D: the covariance is then singular, and
    its factor is known exactly.
    """

    mean: Array
    covariance: Array
    n: int | None = None
    factor: Array | None = None


def moments(features: NDArray[np.floating]) -> Moments:
    """Moments of `features` (n, D), n >= 2, which may be a memory map: 1,024 rows are copied at a time."""
    n, width = features.shape
    if n < 2:
        raise ValueError(f"a covariance needs at least 2 features, not {n}")
    chunks = [slice(start, start + _CHUNK) for start in range(0, n, _CHUNK)]
    mean = sum((features[chunk].sum(0, dtype=np.float64) for chunk in chunks), np.zeros(width)) / n
    covariance = np.zeros((width, width))
    for chunk in chunks:
        centred = features[chunk] - mean
        covariance += centred.T @ centred
    factor = (features - mean) / np.sqrt(n - 1) if n <= width else None
    return Moments(mean, covariance / (n - 1), n, factor)


def frechet(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

    For two sets of no more than D features each the root is one n x m singular value problem; otherwise one or two
    symmetric eigenproblems of at most D x D.
    """
    if a.factor is not None and b.factor is not None:
        cross = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum()
    else:
        one, other = (b, a) if a.factor is None and b.factor is not None else (a, b)
        factor = _root(one.covariance) if one.factor is None else one.factor
        values = np.linalg.eigvalsh(factor @ other.covariance @ factor.T)
        cross = np.sqrt(np.clip(values, 0, None)).sum()
    shift = a.mean - b.mean
    return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """`frechet` of features (n, D) and (m, D)."""
    return frechet(moments(a), moments(b))


def _root(covariance: Array) -> Array:
    """F (k, D) with F^T F = covariance; directions without variance are left out."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    factor: Array = (vectors[:, kept] * np.sqrt(values[kept])).T
    return factor
