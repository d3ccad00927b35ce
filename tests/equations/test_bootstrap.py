"""Bootstrap intervals against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from realign_cli.equations.bootstrap import bootstrap_mean, two_way_bootstrap


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


def test_two_way_bootstrap_resamples_both_ways() -> None:
    """Where every rater says the same of a prompt, only prompts vary, and the other way round.

    Of 16 prompts half are for the first choice: the share's deviation over draws of prompts is sqrt(1/4 / 16) = 1/8.
    """
    counts = np.ones((16, 16))
    one_way = np.zeros((16, 16, 2))
    one_way[:, :8, 0] = one_way[:, 8:, 1] = 1
    for votes in (one_way, one_way.transpose(1, 0, 2)):
        mean, drawn = two_way_bootstrap(votes, counts)
        assert mean.tolist() == [0.5, 0.5] and drawn.shape == (2000, 2)
        assert drawn[:, 0].std() == pytest.approx(1 / 8, rel=0.05)
        assert drawn.sum(axis=1) == pytest.approx(1)


def test_two_way_bootstrap_leaves_out_what_never_met() -> None:
    """Two raters with a prompt each: half of the draws of both find no answer."""
    _, drawn = two_way_bootstrap(np.eye(2)[..., None], np.eye(2))
    assert 0 < len(drawn) < 2000 and np.isfinite(drawn).all()


def test_intervals_over_raters_and_prompts_cover() -> None:
    """Over 200 simulated studies 95 % intervals hold the true share about 95 times of 100; unclustered ones far less.

    A rater follows the prompt's chance or a taste of the rater's own, each drawn around the true shares.
    """
    rng = np.random.default_rng(0)
    truth, studies, raters, prompts = np.array([0.5, 0.3, 0.2]), 200, 20, 25
    held, naive = 0, 0
    for _ in range(studies):
        by_prompt = rng.dirichlet(3 * truth, prompts)[None, :]
        by_rater = rng.dirichlet(3 * truth, raters)[:, None]
        chance = np.where(rng.random((raters, prompts, 1)) < 0.5, by_prompt, by_rater)
        choice = (rng.random((raters, prompts, 1)) > chance.cumsum(axis=-1)[..., :-1]).sum(axis=-1)
        votes = np.eye(3)[choice]
        mean, drawn = two_way_bootstrap(votes, np.ones((raters, prompts)))
        low, high = np.percentile(drawn[:, 0], [2.5, 97.5])
        held += low <= truth[0] <= high
        half = 1.96 * votes[..., 0].std() / np.sqrt(raters * prompts)
        naive += abs(mean[0] - truth[0]) <= half
    assert 0.90 <= held / studies <= 0.99
    assert naive / studies < 0.75
