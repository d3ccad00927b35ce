"""Means of answers that raters gave on prompts, neither of which are independent of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realign_cli.equations.bootstrap import Mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def two_way_mean(values: NDArray[np.float64], counts: NDArray[np.float64], low: float, high: float) -> Mean:
    """The mean of answers within [low, high], with a 95 % interval clustered by rater and by prompt.

    `counts` (R, P) is how many answers each rater gave on each prompt, `values` (R, P) their sum. The variance is that
    of sums over raters, plus that of sums over prompts, less that of single pairs, which both hold (Cameron, Gelbach
    and Miller 2011), and never less than one of the first two. The interval is of Student's t with the smaller number
    of clusters less one; where there is one rater, or one prompt, it is about the other alone.
    """
    from scipy.stats import t

    total = counts.sum()
    mean = values.sum() / total
    parts = (values - mean * counts) / total
    several = [(size, parts.sum(axis=1 - axis)) for axis, size in enumerate(counts.shape) if size > 1]
    ways = [size / (size - 1) * (sums**2).sum() for size, sums in several]
    if not ways:
        return Mean(int(total), float(mean), float(mean), float(mean))
    variance = max(*ways, sum(ways) - (parts**2).sum()) if len(ways) > 1 else ways[0]
    half = t.ppf(0.975, min(size for size, _ in several) - 1) * variance**0.5
    return Mean(int(total), float(mean), float(max(low, mean - half)), float(min(high, mean + half)))
