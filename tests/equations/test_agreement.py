"""Agreement, against published numbers."""

from __future__ import annotations

import numpy as np
import pytest

from realign_cli.equations.agreement import fleiss_kappa, krippendorff_alpha


def test_fleiss_kappa() -> None:
    """Ten units, five categories, fourteen raters: the worked example of the article "Fleiss' kappa" in Wikipedia.

    Agreement of the units 1.000, .253, .308, .440, .330, .462, .242, .176, .286, .286; mean .378, by chance .213.
    """
    counts = np.array(
        [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ]
    )
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_kappa_by_hand() -> None:
    """Units of three and of two raters: (1/3 + 1) / 2 = 2/3 observed; by chance (4/5)^2 + (1/5)^2 = 17/25.

    kappa = (2/3 - 17/25) / (8/25) = -1/24. A unit of one rater changes nothing.
    """
    assert fleiss_kappa(np.array([[2, 1], [2, 0], [0, 1]])) == pytest.approx(-1 / 24)


def test_krippendorff_alpha() -> None:
    """Four observers, twelve units, missing values, nominal: 0.743 (Krippendorff 2011, section C)."""
    said = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
            [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
        ]
    )
    counts = np.array([[(said[:, unit] == value).sum() for value in range(1, 6)] for unit in range(12)])
    assert krippendorff_alpha(counts) == pytest.approx(0.743, abs=5e-4)


@pytest.mark.parametrize("counts", [[[3, 0], [2, 0]], [[1, 0], [0, 1]]], ids=["one category", "nobody twice"])
def test_where_agreement_has_no_meaning(counts: list[list[int]]) -> None:
    assert fleiss_kappa(np.array(counts)) is None and krippendorff_alpha(np.array(counts)) is None
