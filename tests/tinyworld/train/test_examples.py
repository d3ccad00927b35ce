"""Captions, foils and labels that the vision-language models learn from."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import combinations, islice

import numpy as np
import pytest
import torch

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scenes import Scene, Thing
from realign_cli.tinyworld.train import examples
from realign_cli.tinyworld.train.pictures import Pictures, draw_faults, draw_held_out, draw_leaky

RED = Thing("red", "circle", 16, 16, 8)
BLUE = Thing("blue", "square", 48, 40, 8)


def pairs(scene: Scene) -> list[tuple[str, str]]:
    return [thing.pair for thing in scene.things]


@pytest.fixture(scope="module")
def drawn() -> Pictures:
    return draw_leaky(400, np.random.default_rng([1, 2]))


def test_training_scenes_and_foils_never_show_what_is_held_out(drawn):
    rng = np.random.default_rng(0)
    for scene in drawn.scenes + [examples.foil(scene, rng) for scene in drawn.scenes]:
        shown = pairs(scene)
        assert not scenes.HELD_OUT_PAIRS & set(shown)
        assert len(set(shown)) == len(shown)
        assert not any(scenes.is_held_out(a, b) for a, b in combinations(shown, 2))


def test_a_foil_is_never_true(drawn):
    rng = np.random.default_rng(0)
    for scene in drawn.scenes + draw_held_out(200, 3).scenes:
        assert sorted(pairs(examples.foil(scene, rng))) != sorted(pairs(scene))


def test_swaps_trade_two_colours_and_nothing_else():
    (swapped,) = examples.swaps(Scene((RED, BLUE), "white", "left of"))
    assert pairs(swapped) == [("blue", "circle"), ("red", "square")]
    assert swapped.relation is None
    assert examples.swaps(Scene((RED,), "white")) == []
    assert examples.swaps(Scene((Thing("purple", "square", 9, 9, 8), Thing("red", "cross", 40, 40, 8)), "white")) == []


def test_the_canonical_caption_does_not_depend_on_order_place_or_relation():
    for things in ((RED, BLUE), (BLUE, RED)):
        assert examples.canonical(Scene(things, "white", "left of")) == "a red circle and a blue square"


def test_captions_count_what_is_alike_and_name_what_is_malformed():
    again, broken = replace(RED, x=40.0), replace(BLUE, shape=examples.MALFORMED)
    ring = replace(RED, shape="ring")
    for things, caption in (
        ((BLUE, RED, again), "two red circles and a blue square"),
        ((again, RED, RED), "three red circles"),
        ((ring, BLUE, RED), "a red circle, a red ring and a blue square"),
        ((RED, broken), "a red circle and a blue thing"),
        ((broken, RED, broken, BLUE), "a red circle, a blue square and two blue things"),
    ):
        assert examples.canonical(Scene(things, "white")) == caption
    rng = np.random.default_rng(0)
    said = {examples.any_caption(Scene((BLUE, RED, again), "white"), rng) for _ in range(50)}
    assert said == {"two red circles and a blue square", "a blue square and two red circles"}
    assert examples.any_caption(Scene((RED, again), "white"), rng) == "two red circles"


def test_prompts_keep_their_words_and_captions_have_more():
    words = examples.caption_words()
    assert words[: len(scenes.words())] == scenes.words()
    assert len(set(words)) == len(words)
    assert "things" not in scenes.words() and "crosses" in words
    rng = np.random.default_rng(0)
    for scene in draw_faults(300, rng).scenes:
        said = f"{examples.canonical(scene)} {examples.any_caption(examples.miscount(scene, rng), rng)}"
        assert set(said.replace(",", " ,").split()) <= set(words)


def test_a_miscount_is_never_true_and_shows_nothing_held_out():
    rng = np.random.default_rng(0)
    ways = set()
    for scene in [*draw_faults(300, rng).scenes, *islice(scenes.scenes(1), 100)]:
        other = examples.miscount(scene, rng)
        assert examples.trainable(other) and other.things
        assert sorted(pairs(other)) != sorted(pairs(scene))
        assert max(Counter(pairs(other)).values()) <= examples.MOST
        ways.add(len(other.things) - len(scene.things))
    assert ways == {-1, 0, 1}
    assert {examples.miscount(Scene((RED,), "white"), rng).caption for _ in range(50)} == {
        "a red circle and a red circle",
        "a red circle and a red thing",
        "a red thing",
    }


def test_what_may_be_trained_on_leaves_out_held_out_pairs_and_combinations():
    a, b = next((a, b) for a, b in combinations(scenes.all_pairs(), 2) if scenes.is_held_out(a, b))
    first, second = Thing(*a, 16, 16, 8), Thing(*b, 40, 40, 8)
    broken = replace(second, shape=examples.MALFORMED)
    assert not examples.trainable(Scene((first, RED, second), "white"))
    assert not examples.trainable(Scene((Thing("purple", "cross", 9, 9, 8),), "white"))
    assert all(examples.trainable(Scene(things, "white")) for things in ((first, first), (first, broken)))


def test_captions_in_any_order_name_relations_that_hold():
    rng = np.random.default_rng(0)
    said = {examples.any_caption(Scene((RED, BLUE), "white"), rng) for _ in range(200)}
    assert said == {
        *(f"a red circle {word} a blue square" for word in ("and", "left of", "above")),
        *(f"a blue square {word} a red circle" for word in ("and", "right of", "below")),
    }


def test_patch_labels_and_pair_table_show_the_scene():
    colours, kinds = examples.patch_labels([Scene((RED, BLUE), "white")])
    grid = colours.view(8, 8)  # rows from the top; patch centres at 4, 12, 20, ...
    assert grid[1, 1] == list(scenes.COLOURS).index("red")
    assert grid[5, 5] == list(scenes.COLOURS).index("blue")
    assert grid[7, 0] == len(scenes.COLOURS)
    assert kinds.view(8, 8)[1, 2] == scenes.SHAPES.index("circle")
    counts = examples.count_table([Scene((RED, replace(BLUE, shape=examples.MALFORMED), RED), "white")])
    assert counts.sum() == 3
    assert counts[0, 0, 0] == 2 and counts[0, 2, -1] == 1  # blue is the third colour
    table = examples.pair_table([Scene((RED, BLUE), "white")])
    assert table.sum() == 2
    assert table[0, 0, 0] == 1  # the first colour is red, the first kind circle


def test_the_same_pairs_in_another_number_are_no_false_negatives():
    same = examples.false_negatives([Scene((RED,), "white")] * 2, [Scene((RED, RED), "white"), Scene((RED,), "black")])
    assert same.tolist() == [[False, True], [False, False]]


def test_false_negatives_are_other_places_with_the_same_pairs():
    turned, other = Scene((BLUE, RED), "black", "right of"), Scene((RED,), "white")
    same = examples.false_negatives([Scene((RED, BLUE), "white"), turned, other], [other, turned, turned])
    assert same.tolist() == [[False, True, True], [False, False, True], [True, False, False]]


def test_info_nce_by_hand():
    """Row 0: logits 0, 0, (left out): log 2. Row 1: logits 0, log 3, 0: log(5/3)."""
    logits = torch.tensor([[0.0, 0.0, 7.0], [0.0, math.log(3), 0.0]])
    same = torch.tensor([[False, False, True], [False, False, False]])
    assert examples.info_nce(logits, same).item() == pytest.approx((math.log(2) + math.log(5 / 3)) / 2)
