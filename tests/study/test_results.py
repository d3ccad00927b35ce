"""Studies whose raters are programs of known preferences: shares, agreement, and who is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from study_folders import SYSTEMS, answer_all, drawn_study

from realign_cli.study.results import NONE, Results, results
from realign_cli.study.tables import cells, latex, markdown, notes

if TYPE_CHECKING:
    from realign_cli.study.answers import Answer
    from realign_cli.study.design import Item, Study, Trial


def careful(choose: str | None, item: Item) -> str | None:
    """The image of a system, or of a check the right one."""
    return item.right or (None if choose is None else item.images[item.systems.index(choose)])


def test_shares_are_those_of_the_choices() -> None:
    """Three raters of four say final, plain, plain and none of every prompt."""
    study = drawn_study(prompts=6, raters=4)
    said = ["final", "plain", "plain", None]
    found = results(study, answer_all(study, lambda rater, item, _: careful(said[rater], item)))
    (tally,) = found.tallies
    assert (tally.answers, tally.raters, tally.prompts) == (24, 4, 6)
    assert {one.system: one.share.mean for one in tally.shares} == pytest.approx(
        {"final": 0.25, "plain": 0.5, "structure": 0, NONE: 0.25}
    )
    differences = {one.system: one.difference.mean for one in tally.shares if one.difference}
    assert differences == pytest.approx({"plain": 0.25, "structure": -0.25})
    # Of the six pairs of raters on a prompt one agrees; by chance 1/16 + 1/4 + 1/16.
    assert tally.agreement.fleiss_kappa == pytest.approx((1 / 6 - 3 / 8) / (1 - 3 / 8))
    assert [one.left_out for one in found.raters] == [None] * 4


def test_raters_who_agree_and_raters_who_guess() -> None:
    study = drawn_study(prompts=40, raters=10)
    rng = np.random.default_rng(0)
    same = answer_all(study, lambda _, item, trial: careful(SYSTEMS[int(item.prompt or 0) % 3], item))
    guess = answer_all(study, lambda _, item, trial: item.right or str(rng.choice(trial.images)))
    (agreed,), (guessed,) = results(study, same).tallies, results(study, guess).tallies
    assert agreed.agreement.fleiss_kappa == agreed.agreement.krippendorff_alpha == 1
    assert abs(guessed.agreement.fleiss_kappa or 1) < 0.05 and abs(guessed.agreement.krippendorff_alpha or 1) < 0.05
    for one in guessed.shares[:3]:
        assert one.share.low < 1 / 3 < one.share.high


def test_who_fails_attention_checks_is_left_out() -> None:
    """Rater 1 takes the first image each time, rater 2 began and saw no check, rater 3 fails one of two."""
    study = drawn_study(prompts=10, raters=6)
    answers = answer_all(study, lambda rater, item, trial: trial.images[0] if rater == 0 else careful("plain", item))
    checks = [[i for i, trial in enumerate(rater.trials) if study.items[trial.item].right] for rater in study.raters]
    answers["token1"] = [one for one in answers["token1"] if one.trial not in checks[1]]
    answers["token2"] = [_wrong(study, one) if one.trial == checks[2][0] else one for one in answers["token2"]]
    answers["token3"] = answers["token3"][:-1]
    del answers["token5"]
    found = results(study, answers, ["a.json: no answers in it"])
    reasons = {one.number: one.left_out for one in found.raters}
    assert reasons.keys() == {1, 2, 3, 4, 5} and (reasons[4], reasons[5]) == (None, None)
    assert str(reasons[1]).startswith("failed ") and reasons[3] == "failed 1 of 2 attention checks"
    assert reasons[2] == "came to no attention check"
    assert found.tallies[0].raters == 2 and found.tallies[0].shares[1].share.mean == 1
    assert found.tallies[0].answers == 20 - (study.raters[3].trials[-1].item < 10)
    lines = notes(study, found)
    assert lines[0] == "raters: 5 of 6 began, 3 answered everything, 3 left out"
    assert lines[3:] == ["rater 3 is left out: failed 1 of 2 attention checks", "a.json: no answers in it"]


def _wrong(study: Study, answer: Answer) -> Answer:
    return answer.model_copy(update={"choice": "wrong 0"})


def test_pairs_are_counted_each_by_itself() -> None:
    """Final wins over plain for all, over structure for one rater of four."""
    study = drawn_study(prompts=5, raters=4, form="pairwise")

    def choose(rater: int, item: Item, trial: Trial) -> str | None:
        return careful("final" if "plain" in item.systems or rater == 0 else "structure", item)

    found = results(study, answer_all(study, choose))
    shares = {tally.systems: [one.share.mean for one in tally.shares] for tally in found.tallies}
    assert shares == {("final", "plain"): [1, 0], ("final", "structure"): [0.25, 0.75]}
    assert found.tallies[0].agreement.fleiss_kappa is None, "all said the same of everything"


def test_systems_with_the_same_image_share_its_vote() -> None:
    study = drawn_study(prompts=2, raters=3)
    same = {"images": ("0-final", "0-final", "0-structure")}
    items = (study.items[0].model_copy(update=same), *study.items[1:])
    study = study.model_copy(update={"items": items})
    found = results(study, answer_all(study, lambda _, item, trial: careful("final", item)))
    shares = {one.system: one.share.mean for one in found.tallies[0].shares}
    assert shares == pytest.approx({"final": 0.75, "plain": 0.25, "structure": 0, NONE: 0})


def test_two_questions_are_two_tables_and_a_check_counts_for_both() -> None:
    study = drawn_study(prompts=4, raters=2).model_copy(update={"questions": ("alignment", "fidelity")})
    answers = answer_all(study, lambda _, item, trial: careful("final", item))
    answers["token1"] = [
        _wrong(study, one)
        if one.question == "fidelity" and study.items[study.raters[1].trials[one.trial].item].right
        else one
        for one in answers["token1"]
    ]
    found = results(study, answers)
    assert [tally.question for tally in found.tallies] == ["alignment", "fidelity"]
    assert [one.left_out for one in found.raters] == [None, "failed 2 of 2 attention checks"]


def test_tables() -> None:
    study = drawn_study(prompts=2, raters=2)
    found = results(study, answer_all(study, lambda _, item, trial: careful("final", item)))
    assert cells(found.tallies[0]) == [
        ["final", "100.0", "100.0 to 100.0", "", ""],
        ["plain", "0.0", "0.0 to 0.0", "-100.0", "-100.0 to -100.0"],
        ["structure", "0.0", "0.0 to 0.0", "-100.0", "-100.0 to -100.0"],
        [NONE, "0.0", "0.0 to 0.0", "", ""],
    ]
    assert "| plain | 0.0 | 0.0 to 0.0 | -100.0 | -100.0 to -100.0 |" in markdown(study, found)
    assert r"plain & 0.0 & 0.0 to 0.0 & -100.0 & -100.0 to -100.0 \\" in latex(study, found)


def test_no_answers() -> None:
    assert results(drawn_study(2, 2), {}) == Results([], [], [])
