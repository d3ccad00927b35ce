"""Values of the same prompts from several systems -> who is ahead, by how much, and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from realign_cli.equations.bootstrap import bootstrap_mean
from realign_cli.equations.significance import holm, sign_test
from realign_cli.errors import UsageError

if TYPE_CHECKING:
    from realign_cli.equations.bootstrap import Mean
    from realign_cli.evaluation.evaluate import Scores


@dataclass(frozen=True)
class System:
    """What was measured of one system: values by prompt, and where they are known its FID and its costs per image.

    These are passes of its generator and `seconds`; `memory` is the most main memory that a process of it took, in
    bytes. `note` is what must be known to read its values fairly.
    """

    name: str
    scores: Scores
    fid: float | None = None  # of all its images, so that prompts cannot be paired
    passes: float | None = None
    seconds: float | None = None
    memory: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Standing:
    """The place of one system among all, by one column; `difference` is paired, to the first system that was named."""

    rank: int
    system: str
    value: Mean
    difference: Mean | None
    fid: float | None
    passes: float | None
    seconds: float | None = None
    memory: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Duel:
    """Two systems, prompt by prompt, `won` by the first. `p` is of a sign test, `adjusted` among all duels."""

    first: str
    second: str
    won: int
    lost: int
    tied: int
    p: float
    adjusted: float

    @property
    def win_rate(self) -> float:
        """The share of prompts that the first wins, with ties as half."""
        return (self.won + self.tied / 2) / (self.won + self.lost + self.tied)


@dataclass(frozen=True)
class Ranking:
    """All systems by one column, the best first, over the `n` prompts that all of them have a value of."""

    column: str
    n: int
    left_out: int  # prompts that only some of them have
    standings: Sequence[Standing]
    duels: Sequence[Duel]


def rankings(systems: Sequence[System]) -> list[Ranking]:
    """A ranking by each column that all systems have; the first is what the others are compared with.

    Raises:
        UsageError: there is no such column, or no prompt of which all of them have a value.
    """
    names = ", ".join(system.name for system in systems)
    columns = [dict.fromkeys(column for values in system.scores.values() for column in values) for system in systems]
    shared = [column for column in columns[0] if all(column in other for other in columns)]
    if not shared:
        raise UsageError(f"{names}: no metric that all of them have; measure them by the same ones")
    found = [ranking for column in shared if (ranking := rank(systems, column))]
    if not found:
        raise UsageError(f"{names}: no prompt, by its id, of which all of them have a value")
    return found


def rank(systems: Sequence[System], column: str) -> Ranking | None:
    """Rank by the mean of a column, higher being better; None where no prompt has a value from all systems."""
    values = {system.name: _values(column, system.scores) for system in systems}
    shared = set.intersection(*(set(own) for own in values.values()))
    if not shared:
        return None
    ids = sorted(shared)
    rows = {name: np.array([own[i] for i in ids]) for name, own in values.items()}
    first = systems[0].name
    ahead = sorted(systems, key=lambda system: -rows[system.name].mean())
    standings = [
        Standing(
            place,
            system.name,
            bootstrap_mean(rows[system.name]),
            bootstrap_mean(rows[system.name] - rows[first]) if system.name != first else None,
            system.fid,
            system.passes,
            system.seconds,
            system.memory,
            system.note,
        )
        for place, system in enumerate(ahead, 1)
    ]
    return Ranking(
        column,
        len(ids),
        len(set.union(*(set(own) for own in values.values()))) - len(ids),
        standings,
        _duels([(system.name, rows[system.name]) for system in ahead]),
    )


def _duels(rows: Sequence[tuple[str, np.ndarray]]) -> list[Duel]:
    counts = []
    for (one, values), (other, others) in combinations(rows, 2):
        won, lost = int((values > others).sum()), int((values < others).sum())
        counts.append((one, other, won, lost, len(values) - won - lost, sign_test(won, lost)))
    return [Duel(*count, adjusted) for count, adjusted in zip(counts, holm([c[-1] for c in counts]), strict=True)]


def _values(column: str, scores: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    return {i: value for i, values in scores.items() if (value := values.get(column)) is not None}
