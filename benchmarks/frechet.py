"""Frechet distance from saved statistics and from features: ours against pytorch-fid's, in turn.

    python benchmarks/frechet.py

Features are random, 2,048-d, with the falling spectrum that pooled features have. n < 2,048 is the singular case, where
ours starts from the features; pytorch-fid's always starts from mean and covariance, which are not timed. Give the
libraries one thread (OMP_NUM_THREADS=1): the time is that of the processor.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pytorch_fid.fid_score import calculate_frechet_distance

from realign_cli.equations.frechet import Moments, frechet, frechet_distance

DIMENSIONS, PAIRS = 2048, 5


def features(n: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    scale = 1 / np.sqrt(1 + np.arange(DIMENSIONS))
    return (rng.normal(size=(n, DIMENSIONS)) * scale + 0.05 * rng.normal(size=DIMENSIONS)).astype(np.float32)


def timed(function: Callable[[], float]) -> tuple[float, float]:
    began = time.process_time()  # of the processor, so that neighbours on the machine do not count
    value = function()
    return time.process_time() - began, value


def main() -> None:
    warnings.simplefilter("ignore")
    for n in (5000, 1000):
        a, b = features(n, 0), features(n, 1)
        (mu_a, cov_a), (mu_b, cov_b) = ((x.mean(0, dtype=np.float64), np.cov(x, rowvar=False)) for x in (a, b))

        def ours(of: int = n, rows: tuple = (a, b), known: tuple = (mu_a, cov_a, mu_b, cov_b)) -> float:
            if of < DIMENSIONS:
                return frechet_distance(*rows)
            return frechet(Moments(*known[:2]), Moments(*known[2:]))

        def theirs(known: tuple = (mu_a, cov_a, mu_b, cov_b)) -> float:
            return float(calculate_frechet_distance(*known))

        ratios, values = [], (0.0, 0.0)
        for _ in range(PAIRS):
            (mine, one), (other, two) = timed(ours), timed(theirs)
            ratios.append(other / mine)
            values = one, two
        sys.stdout.write(
            f"n = {n}: pytorch-fid / ours median {statistics.median(ratios):.1f}, range {min(ratios):.1f} to "
            f"{max(ratios):.1f}, {PAIRS} pairs; values {values[0]:.8f} and {values[1]:.8f}, "
            f"relative difference {abs(values[0] / values[1] - 1):.1e}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
