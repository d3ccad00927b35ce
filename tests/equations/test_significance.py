"""Known values of the sign test and of Holm's correction."""

from __future__ import annotations

import pytest

from realign_cli.equations.significance import holm, sign_test


def test_the_sign_test_is_exact():
    assert sign_test(5, 5) == sign_test(0, 0) == 1
    assert sign_test(8, 0) == sign_test(0, 8) == pytest.approx(2 / 2**8)
    assert sign_test(7, 1) == pytest.approx(2 * (1 + 8) / 2**8)


def test_holm_by_hand():
    """Sorted .01 .02 .03 .04, times 4, 3, 2, 1, and never below the one before."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.01]) == [0.01]
    assert holm([]) == []
