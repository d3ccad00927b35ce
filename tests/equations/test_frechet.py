"""The Frechet distance against numbers worked by hand and scipy's general matrix root."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.linalg import sqrtm

from realign_cli.equations.frechet import Moments, frechet, frechet_distance, moments

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Four points at (+-1, +-1): mean 0; each coordinate has the sum of squares 4 over n - 1 = 3.
UNIT = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(3) / 2  # covariance I


def features(n: int, dimensions: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    mixing = np.eye(dimensions) + rng.normal(size=(dimensions, dimensions)) / np.sqrt(dimensions)
    return rng.normal(size=(n, dimensions)) @ mixing + rng.normal(size=dimensions)


def by_general_root(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The formula as it is printed."""
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    shift = a.mean(0) - b.mean(0)
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    return float(shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root))


def test_by_hand() -> None:
    # means (1, 0) apart: 1; covariances diag(4, 1) and I: (2 - 1)^2 + 0 = 1
    assert frechet_distance(UNIT * [2, 1] + [1, 0], UNIT) == pytest.approx(2, abs=1e-9)
    # diag(4, 1) against diag(1, 4): (2 - 1)^2 twice
    assert frechet_distance(UNIT * [2, 1], UNIT * [1, 2]) == pytest.approx(2, abs=1e-9)
    # one dimension, variances 9 and 1, means 3 apart: 9 + (3 - 1)^2
    assert frechet_distance(np.array([[0.0], [3.0], [6.0]]), np.array([[-1.0], [0.0], [1.0]])) == pytest.approx(13)


# Well conditioned; both, one or the other side with fewer features than dimensions, whose covariance is singular.
@pytest.mark.parametrize(("n", "m"), [(600, 700), (50, 60), (50, 700), (700, 50)])
def test_against_the_general_root(n: int, m: int) -> None:
    a, b = features(n, 64, 0), features(m, 64, 1)
    assert frechet_distance(a, b) == pytest.approx(by_general_root(a, b), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_two_singular_covariances_of_which_no_features_are_left() -> None:
    a, b = features(40, 64, 0), features(50, 64, 1)
    known = [Moments(x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)]
    assert frechet(*known) == pytest.approx(frechet_distance(a, b), rel=1e-6)


@pytest.mark.parametrize("n", [40, 700])
def test_moments_alone_give_the_same(n: int) -> None:
    a, b = features(n, 64, 0), features(300, 64, 1)
    known = Moments(b.mean(0), np.cov(b, rowvar=False))
    assert frechet(moments(a), known) == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert frechet(known, moments(a)) == pytest.approx(frechet_distance(a, b), rel=1e-6)


@pytest.mark.parametrize("n", [40, 700])
def test_a_set_is_at_no_distance_from_itself_and_goes_away_as_it_moves(n: int) -> None:
    a = features(n, 64, 2)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    distances = [frechet_distance(a, a + np.eye(64)[0] * step) for step in (1, 2, 4)]
    assert distances == pytest.approx([1, 4, 16], rel=1e-6)
    assert frechet_distance(a, 2 * a) > frechet_distance(a, 1.5 * a) > 1


def test_moments_are_numpys_in_whatever_chunks() -> None:
    a = features(2500, 5, 3).astype(np.float32)
    found = moments(a)
    assert found.n == 2500 and found.factor is None
    assert found.variance == pytest.approx(np.trace(found.covariance))
    assert found.mean == pytest.approx(a.astype(np.float64).mean(0), rel=1e-12)
    assert found.covariance == pytest.approx(np.cov(a.astype(np.float64), rowvar=False), rel=1e-9)
    few = moments(a[:4])
    assert few.factor is not None and few.factor.shape == (4, 5)
    assert few.covariance == pytest.approx(np.cov(a[:4].astype(np.float64), rowvar=False), rel=1e-9)
    assert few.variance == pytest.approx(np.trace(few.covariance))


def test_one_feature_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        moments(np.zeros((1, 4)))
