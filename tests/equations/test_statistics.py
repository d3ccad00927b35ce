"""Frechet distance and bootstrap intervals against numbers worked by hand and an independent matrix root."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from realign_cli.equations.statistics import bootstrap_mean, frechet_distance

# Four points at (+-1, +-1): mean 0; each coordinate has the sum of squares 4 over n - 1 = 3.
UNIT = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(3) / 2  # covariance I


def features(n: int, dimensions: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dimensions)) @ rng.normal(size=(dimensions, dimensions)) + rng.normal(size=dimensions)


def test_frechet_by_hand() -> None:
    # means (1, 0) apart: 1; covariances diag(4, 1) and I: (2 - 1)^2 + 0 = 1
    assert frechet_distance(UNIT * [2, 1] + [1, 0], UNIT) == pytest.approx(2, abs=1e-9)
    # diag(4, 1) against diag(1, 4): (2 - 1)^2 twice
    assert frechet_distance(UNIT * [2, 1], UNIT * [1, 2]) == pytest.approx(2, abs=1e-9)
    # one dimension, variances 9 and 1, means 3 apart: 9 + (3 - 1)^2
    assert frechet_distance(np.array([[0.0], [3.0], [6.0]]), np.array([[-1.0], [0.0], [1.0]])) == pytest.approx(13)


@pytest.mark.parametrize(("n", "dimensions"), [(200, 16), (10, 32)])  # the second with singular covariances
def test_frechet_against_a_general_matrix_root(n: int, dimensions: int) -> None:
    a, b = features(n, dimensions, 0), features(n + 7, dimensions, 1)
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    # C_a C_b has the eigenvalues of R C_b R with R = C_a^(1/2), so their roots have one trace.
    root = np.real(sqrtm(covariances[0]))
    cross = np.real(sqrtm(root @ covariances[1] @ root))
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * cross)
    tolerance = 1e-6 if n > dimensions else 1e-4  # the root of a singular matrix is itself no better
    assert frechet_distance(a, b) == pytest.approx(expected, rel=tolerance)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6 * expected)


def test_bootstrap_by_hand() -> None:
    one = bootstrap_mean(np.array([0.25]))
    assert (one.n, one.mean, one.low, one.high) == (1, 0.25, 0.25, 0.25)
    # n zeros and ones: the resampled means are Binomial(n, 1/2) / n, its interval 0.5 +- 1.96 * 0.5 / sqrt(n)
    half = bootstrap_mean(np.repeat([0.0, 1.0], 200))
    assert half.mean == 0.5
    assert (half.low, half.high) == (pytest.approx(0.451, abs=0.005), pytest.approx(0.549, abs=0.005))


def test_bootstrap_repeats() -> None:
    values = np.random.default_rng(3).normal(size=50)
    assert bootstrap_mean(values) == bootstrap_mean(values)
