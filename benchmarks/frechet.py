"""Frechet distance from saved statistics and from features: ours against pytorch-fid's, in turn.

    python benchmarks/frechet.py [--quick]

Features are random, 2,048-d, with the falling spectrum that pooled features have. n < 2,048 is the singular case, where
ours starts from the features; pytorch-fid's always starts from mean and covariance, which are not timed. Give the
libraries one thread (OMP_NUM_THREADS=1): the time is that of the processor.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytorch_fid
import scipy
from pytorch_fid.fid_score import calculate_frechet_distance
from ratios import Row, in_turn, main, ratios

from realign_cli.equations.frechet import Moments, frechet, frechet_distance

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIMENSIONS = 2048
PEER = f"`calculate_frechet_distance` of pytorch-fid {pytorch_fid.__version__}, scipy {scipy.__version__}"


def features(n: int, dimensions: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    scale = 1 / np.sqrt(1 + np.arange(dimensions))
    return (rng.normal(size=(n, dimensions)) * scale + 0.05 * rng.normal(size=dimensions)).astype(np.float32)


def row(n: int, dimensions: int, tolerance: float, *, quick: bool) -> Row:
    """pytorch-fid / ours for n + n features; `tolerance` is that of the two values' relative difference."""
    a, b = features(n, dimensions, 0), features(n, dimensions, 1)
    (mu_a, cov_a), (mu_b, cov_b) = ((x.mean(0, dtype=np.float64), np.cov(x, rowvar=False)) for x in (a, b))

    def ours() -> float:
        if n < dimensions:
            return frechet_distance(a, b)
        return frechet(Moments(mu_a, cov_a), Moments(mu_b, cov_b))

    def theirs() -> float:
        return float(calculate_frechet_distance(mu_a, cov_a, mu_b, cov_b))

    one, two = ours(), theirs()
    assert abs(one / two - 1) < tolerance, (one, two)
    times = in_turn({"theirs": theirs, "ours": ours}, quick=quick)
    singular = ", singular; ours from the features" if n < dimensions else ", from mean and covariance"
    return Row(f"{dimensions:,}-d, {n:,} + {n:,}{singular}: pytorch-fid / ours", ratios(times, "theirs", "ours"), PEER)


def measure(quick: bool) -> list[Row]:
    warnings.simplefilter("ignore")
    if quick:
        return [row(n, 64, 1e-4, quick=quick) for n in (100, 40)]
    return [row(5000, DIMENSIONS, 1e-12, quick=quick), row(1000, DIMENSIONS, 1e-6, quick=quick)]


if __name__ == "__main__":
    main(measure)
