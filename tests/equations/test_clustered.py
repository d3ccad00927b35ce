"""Intervals over raters and prompts, against numbers worked by hand and against simulated studies."""

from __future__ import annotations

import numpy as np
import pytest

from realign_cli.equations.bootstrap import Mean
from realign_cli.equations.clustered import two_way_mean


def test_two_raters_and_two_prompts_by_hand() -> None:
    """Answers 1 1 and 0 1, mean 3/4; less the mean and over 4: 1/16 1/16 and -3/16 1/16.

    Sums by rater and by prompt are 1/8 and -1/8, so 2 (1/64 + 1/64) = 1/16 each; squares of all add up to 3/64. The
    variance is 2/16 - 3/64 = 5/64, and t of one degree 12.7062.
    """
    found = two_way_mean(np.array([[1.0, 1], [0, 1]]), np.ones((2, 2)), -9, 9)
    half = 12.7062 * np.sqrt(5 / 64)
    assert (found.n, found.mean) == (4, 0.75)
    assert (found.low, found.high) == (pytest.approx(0.75 - half, abs=1e-4), pytest.approx(0.75 + half, abs=1e-4))
    assert two_way_mean(np.array([[1.0, 1], [0, 1]]), np.ones((2, 2)), 0, 1) == Mean(4, 0.75, 0, 1)


def test_where_raters_agree_only_prompts_count() -> None:
    """16 raters say the same of 16 prompts, half of which are 1: 16/15 sum (1/32)^2 = 1/60, t of 15 degrees 2.1314.

    So it is with the two exchanged, with one rater, and with answers left out at random nearly so.
    """
    values = np.repeat(np.arange(16.0) % 2, 16).reshape(16, 16)
    wanted = pytest.approx(2.1314 * np.sqrt(1 / 60), abs=1e-4)
    for one in (values, values.T, values[:, :1]):
        found = two_way_mean(one, np.ones(one.shape), 0, 1)
        assert found.mean == 0.5 and found.high - 0.5 == wanted == 0.5 - found.low
    counts = np.float64(np.random.default_rng(0).random((16, 16)) < 0.7)
    found = two_way_mean(values * counts, counts, 0, 1)
    assert (found.high - found.low) / 2 == pytest.approx(2.1314 * np.sqrt(1 / 60), rel=0.1)


def test_one_answer_has_no_interval() -> None:
    assert two_way_mean(np.ones((1, 1)), np.ones((1, 1)), 0, 1) == Mean(1, 1, 1, 1)


@pytest.mark.parametrize("clustered", [0.0, 0.5, 1.0], ids="clustered {}".format)
def test_intervals_cover(clustered: float) -> None:
    """Over 200 simulated studies 95 % intervals hold the true share about 95 times of 100; unclustered ones far less.

    Of 20 raters, who see 25 prompts each of 50, some answers follow the prompt's chances or a taste of the rater's own,
    which are drawn around the true shares, and the others the true shares themselves.
    """
    rng = np.random.default_rng(0)
    truth, studies, raters, prompts = np.array([0.5, 0.3, 0.2]), 200, 20, 50
    counts = np.float64((np.arange(prompts) - 25 * np.arange(raters)[:, None]) % prompts < 25)
    held, naive, width = 0, 0, 0.0
    for _ in range(studies):
        own = np.where(
            rng.random((raters, prompts, 1)) < 0.5,
            rng.dirichlet(3 * truth, prompts)[None, :],
            rng.dirichlet(3 * truth, raters)[:, None],
        )
        chance = np.where(rng.random((raters, prompts, 1)) < clustered, own, truth)
        choice = (rng.random((raters, prompts, 1)) > chance.cumsum(axis=-1)[..., :-1]).sum(axis=-1)
        found = two_way_mean((choice == 0) * counts, counts, 0, 1)
        half = 1.96 * np.sqrt(found.mean * (1 - found.mean) / found.n)
        held += found.low <= truth[0] <= found.high
        naive += abs(found.mean - truth[0]) <= half
        width += (found.high - found.low) / (2 * half) / studies
    assert 0.92 <= held / studies <= 0.985
    if clustered == 1:
        assert naive / studies < 0.75
    if clustered == 0:
        assert width < 1.2, "where nothing is clustered, little is lost"
