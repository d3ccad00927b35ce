"""Whether one system beats another, and what comparing many of them does to such a claim."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def sign_test(won: int, lost: int) -> float:
    """The two-sided exact p of `won` against `lost` pairs if either were as likely; ties say nothing (Conover 1999)."""
    from scipy.stats import binomtest

    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """p values as they count among each other (Holm 1979): below x, none of the claims errs with a chance above x."""
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted
