"""Several systems on the same prompts."""

from __future__ import annotations

import pytest

from realign_cli.evaluation.ranking import System, rank
from realign_cli.evaluation.ranking_tables import cells, columns, latex, markdown


def system(name: str, *values: float | None, **more: object) -> System:
    return System(name, {f"{i}": {"clip": value} for i, value in enumerate(values)}, **more)


def test_the_best_is_first_and_differences_are_to_the_one_named_first():
    found = rank([system("plain", 0.1, 0.2, 0.3), system("better", 0.4, 0.6, 0.8), system("worse", 0, 0, 0)], "clip")
    assert found is not None and (found.n, found.left_out) == (3, 0)
    assert [(one.rank, one.system) for one in found.standings] == [(1, "better"), (2, "plain"), (3, "worse")]
    differences = {one.system: one.difference and one.difference.mean for one in found.standings}
    assert differences == {"better": pytest.approx(0.4), "plain": None, "worse": pytest.approx(-0.2)}


def test_only_prompts_that_all_have_are_compared():
    found = rank([system("a", 0.1, 0.9, None), system("b", 0.2, None, 0.4), system("c", 0.3, 0.1)], "clip")
    assert found is not None and (found.n, found.left_out) == (1, 2)
    assert [one.system for one in found.standings] == ["c", "b", "a"]
    assert rank([system("a", 0.1, None), system("b", None, 0.1)], "clip") is None
    assert rank([system("a", 0.1), system("b", 0.1)], "blip") is None


def test_every_pair_meets_once_and_counts_among_the_others():
    found = rank([system("a", *[1.0] * 8), system("b", *[0.0] * 8), system("c", *[0.0] * 7, 1.0)], "clip")
    assert found is not None
    duels = {(one.first, one.second): one for one in found.duels}
    assert set(duels) == {("a", "c"), ("a", "b"), ("c", "b")}
    ab, ac, cb = duels["a", "b"], duels["a", "c"], duels["c", "b"]
    assert (ab.won, ab.lost, ab.tied, ab.win_rate) == (8, 0, 0, 1.0)
    assert (ac.won, ac.lost, ac.tied, ac.win_rate) == (7, 0, 1, 0.9375)
    assert (cb.p, cb.adjusted, cb.win_rate) == (1.0, 1.0, 0.5625)
    assert ab.adjusted == pytest.approx(3 * 2 / 2**8) and ac.adjusted == pytest.approx(2 * 2 / 2**7)


def test_a_single_system_has_a_place_and_no_duel():
    found = rank([system("a", 0.1, 0.2, passes=2.0)], "clip")
    assert found is not None and not found.duels
    (one,) = found.standings
    assert (one.rank, one.passes, one.difference) == (1, 2.0, None)


def test_tables_have_time_and_memory_where_they_are_known_and_mark_what_has_a_note():
    first, timed = system("a", 0.1, 0.3), system("b", 0.2, 0.4, seconds=1.5, memory=2_000_000_000, note="tuned on clip")
    plain, found = rank([first], "clip"), rank([first, timed], "clip")
    assert plain is not None and found is not None
    assert columns(plain)[-1] == "passes" and columns(found)[-2:] == ("seconds", "GB")
    assert [(line[1], line[-2:]) for line in cells(found)] == [("b*", ["1.50", "2.00"]), ("a", ["", ""])]
    assert "| 1 | b* |" in markdown([found]) and markdown([found, found]).endswith("\n- \\* b: tuned on clip")
    assert r"1 & b* & 0.300" in latex([found]) and latex([found, found]).endswith("\n% * b: tuned on clip")
    assert "tuned" not in markdown([plain]) and "GB" not in latex([plain])
