"""How far several raters agree, beyond what chance would give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fleiss_kappa(counts: NDArray[np.int64]) -> float | None:
    """Fleiss' kappa (Fleiss 1971) of `counts` (units, categories), how many raters put a unit into a category.

    Units may have other numbers of raters: each then has the agreement of its own pairs, and all count alike. Those of
    fewer than two raters say nothing. None where no unit is left, or all raters chose one category throughout.
    """
    counts = counts[counts.sum(axis=1) >= 2]
    raters = counts.sum(axis=1)
    if not len(counts):
        return None
    observed = ((counts * (counts - 1)).sum(axis=1) / (raters * (raters - 1))).mean()
    expected = ((counts.sum(axis=0) / counts.sum()) ** 2).sum()
    return None if expected == 1 else float((observed - expected) / (1 - expected))


def krippendorff_alpha(counts: NDArray[np.int64]) -> float | None:
    """Krippendorff's alpha of nominal data, with the arguments and the exceptions of `fleiss_kappa`."""
    import krippendorff

    counts = counts[counts.sum(axis=1) >= 2]
    if np.count_nonzero(counts.sum(axis=0)) < 2:
        return None
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))
