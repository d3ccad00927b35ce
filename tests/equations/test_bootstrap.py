"""Bootstrap intervals against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from realign_cli.equations.bootstrap import bootstrap_mean


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
