"""A distance says over how many images it is, and what it cannot be compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from realign_cli.errors import RealignError
from realign_cli.evaluation.distance import Distance, distance, of_statistics, reference

if TYPE_CHECKING:
    from numpy.typing import NDArray


def features(n: int, width: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


def test_says_over_how_many() -> None:
    some = features(6)
    found = distance(some + np.float32([3, 0]), reference(some))
    assert found.fid == pytest.approx(9, rel=1e-5)
    assert (found.n, found.n_reference, found.dimensions) == (6, 6, 2)
    assert found.kid is not None and found.kid.subset == 3


@pytest.mark.parametrize(("n", "m", "caveat"), [(2048, 2048, False), (2047, 3000, True), (3000, 2047, True)])
def test_few_images_are_a_caveat(n: int, m: int, caveat: bool) -> None:
    assert bool(Distance(1.0, n, m, 64).caveat) == caveat


def test_statistics_alone() -> None:
    some = features(3000)
    known = of_statistics(some.mean(0), np.cov(some, rowvar=False), None)
    found = distance(some, known)
    assert found.fid == pytest.approx(0, abs=1e-6)
    assert (found.kid, found.n_reference, found.caveat) == (None, None, None)


def test_what_has_no_distance() -> None:
    with pytest.raises(RealignError, match="at least 2 images on each side, and here is 1"):
        distance(features(1), reference(features(5)))
    with pytest.raises(RealignError, match="has 3 dimensions and the features here 2"):
        distance(features(5), reference(features(5, 3)))
    assert distance(features(3), reference(features(5))).kid is None
