"""KID by hand, against torchmetrics, and its standard error against what repetition shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from realign_cli.equations.kid import kernel_distance, polynomial_mmd

if TYPE_CHECKING:
    from numpy.typing import NDArray


def features(n: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n, 16))


def test_by_hand() -> None:
    # D = 1, k(x, y) = (xy + 1)^3. Within {0, 1}: k(0, 1) = 1. Within {1, 2}: k(1, 2) = 27.
    # Across: k(0, 1) = k(0, 2) = 1, k(1, 1) = 8, k(1, 2) = 27: mean 37 / 4. 1 + 27 - 2 * 37 / 4 = 9.5
    assert polynomial_mmd(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])) == pytest.approx(9.5)


def test_against_torchmetrics() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    import torch

    a, b = features(120, 0) + 0.5, features(120, 1)
    expected = float(kid.poly_mmd(torch.from_numpy(a), torch.from_numpy(b)))
    assert polynomial_mmd(a, b) == pytest.approx(expected, rel=1e-9)


def test_unbiased_where_fid_is_not() -> None:
    """Two draws of one distribution are at distance zero on average, however few they are."""
    values = [kernel_distance(features(12, seed), features(12, 1000 + seed)).value for seed in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_error_is_what_repetition_shows() -> None:
    found = [kernel_distance(features(100, seed) + 0.5, features(100, 1000 + seed)) for seed in range(40)]
    assert np.mean([one.error for one in found]) == pytest.approx(np.std([one.value for one in found]), rel=0.35)


def test_repeats_and_grows() -> None:
    a, b = features(200, 0), features(150, 1)
    assert kernel_distance(a, b) == kernel_distance(a, b)
    assert kernel_distance(a, b).subset == 75
    values = [kernel_distance(a, b + step).value for step in (0, 0.5, 1)]
    assert values == sorted(values) and values[1] > 0.1
    with pytest.raises(ValueError, match="at least 4"):
        kernel_distance(a, b[:3])
