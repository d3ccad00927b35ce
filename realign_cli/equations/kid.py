"""The kernel distance of two sets of features, KID (Binkowski et al. 2018): unbiased, and so usable for small sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUBSET, _SUBSETS, _SEED = 1000, 100, 0


@dataclass(frozen=True)
class Kid:
    """The mean over `subsets` random subsets of `subset` features of each side, and its standard error."""

    value: float
    error: float
    subset: int
    subsets: int


def polynomial_mmd(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy of features (m, D) and (m, D), m >= 2.

    The kernel is (x . y / D + 1)^3. An unbiased estimate of a distance near zero is often negative.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    m, width = a.shape
    aa, bb, ab = (_cube(x @ y.T / width + 1) for x, y in ((a, a), (b, b), (a, b)))
    within = (aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * ab.mean())


def kernel_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> Kid:
    """KID of features (n, D) and (m, D), which may be memory maps; n, m >= 4.

    100 subsets, drawn without replacement at a fixed seed, hold 1,000 features each, or half of the smaller set where
    that is less. With subsets of k out of n their spread times sqrt(k / (n - k)) is the delete-d jackknife's standard
    error (Shao and Wu 1989); n is that of the smaller set, which does not understate it.
    """
    n = min(len(a), len(b))
    if n < 4:
        raise ValueError(f"KID needs at least 4 features on each side, not {n}")
    size = min(_SUBSET, n // 2)
    rng = np.random.default_rng(_SEED)
    values = []
    for _ in range(_SUBSETS):
        chosen = (np.sort(rng.choice(len(x), size, replace=False)) for x in (a, b))
        values.append(polynomial_mmd(*(x[rows] for x, rows in zip((a, b), chosen, strict=True))))
    error = np.std(values) * np.sqrt(size / (n - size))
    return Kid(float(np.mean(values)), float(error), size, _SUBSETS)


def _cube(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values * values * values  # many times quicker than a power
