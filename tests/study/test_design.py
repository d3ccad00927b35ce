"""Who sees what: every prompt as often, every system in every place, and checks among them."""

from __future__ import annotations

from collections import Counter

import pytest
from study_folders import drawn_study

from realign_cli.study.design import Item, Study, plan

ITEMS = [Item(text="t", prompt=f"{p}", systems=("a", "b", "c"), images=(f"{p}a", f"{p}b", f"{p}c")) for p in range(20)]
CHECKS = [Item(text="c", images=("right", f"wrong {i}", f"bad {i}"), right="right") for i in range(12)]


def test_every_system_stands_equally_often_in_every_place() -> None:
    """Over the six raters each of three images of a prompt stands twice in each place."""
    places = Counter(
        (name, place)
        for trials in plan(ITEMS, CHECKS, raters=6, count=20, seed=3)
        for trial in trials
        if trial.item < len(ITEMS)
        for place, name in enumerate(trial.images)
    )
    assert len(places) == 20 * 3 * 3 and set(places.values()) == {2}


def test_orders_differ_between_prompts_and_rounds() -> None:
    orders = Counter(
        tuple(name[-1] for name in trial.images)
        for trials in plan(ITEMS, CHECKS, raters=6, count=20, seed=3)
        for trial in trials
        if trial.item < len(ITEMS)
    )
    assert len(orders) == 6 and max(orders.values()) < 2 * min(orders.values())


def test_every_prompt_is_seen_as_often() -> None:
    """Eight raters with five of twenty prompts each: two see each prompt; none sees one twice."""
    plans = plan(ITEMS, CHECKS, raters=8, count=5, seed=0)
    seen = [[trial.item for trial in trials if trial.item < len(ITEMS)] for trials in plans]
    assert all(len(set(own)) == 5 for own in seen)
    assert set(Counter(item for own in seen for item in own).values()) == {2}


def test_checks_stand_among_the_trials() -> None:
    """One for ten items, at least two, none twice, one in each half, and not in the same places for all."""
    plans = plan(ITEMS, CHECKS, raters=30, count=20, seed=0)
    places = [[i for i, trial in enumerate(trials) if trial.item >= len(ITEMS)] for trials in plans]
    assert all(len(own) == 2 and own[0] <= 10 < 11 <= own[1] for own in places)
    assert len({tuple(own) for own in places}) > 15
    assert all(len({trials[i].item for i in own}) == 2 for trials, own in zip(plans, places, strict=True))
    right = Counter(trial.images.index("right") for trials in plans for trial in trials if trial.item >= len(ITEMS))
    assert set(right) == {0, 1, 2} and min(right.values()) >= 10
    many = [Item(text="t", prompt=f"{p}", systems=("a", "b"), images=(f"{p}a", f"{p}b")) for p in range(60)]
    (one,) = plan(many, CHECKS, raters=1, count=60, seed=0)
    assert sum(trial.item >= 60 for trial in one) == 6


def test_the_seed_gives_all_chance() -> None:
    assert plan(ITEMS, CHECKS, 5, 20, seed=1) == plan(ITEMS, CHECKS, 5, 20, seed=1)
    assert plan(ITEMS, CHECKS, 5, 20, seed=1) != plan(ITEMS, CHECKS, 5, 20, seed=2)


def test_a_pair_is_a_trial_and_systems_with_the_same_image_share_a_place() -> None:
    study: Study = drawn_study(prompts=2, raters=1, form="pairwise")
    shown = Counter(study.items[trial.item].systems for trial in study.raters[0].trials)
    assert shown == {("final", "plain"): 2, ("final", "structure"): 2, (): 2}
    same = [Item(text="t", prompt="0", systems=("a", "b", "c"), images=("x", "y", "x"))]
    (trials,) = plan(same, CHECKS, 1, 1, seed=0)
    assert sorted(next(trial.images for trial in trials if trial.item == 0)) == ["x", "y"]


@pytest.mark.parametrize("count", [1, 3])
def test_few_prompts_are_enough(count: int) -> None:
    (trials,) = plan(ITEMS[:count], CHECKS, 1, count, seed=0)
    assert len(trials) == count + 2
