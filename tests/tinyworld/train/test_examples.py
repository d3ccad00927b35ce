"""Captions, foils and labels that the vision-language models learn from."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scenes import Scene, Thing
from realign_cli.tinyworld.train import examples
from realign_cli.tinyworld.train.pictures import Pictures, draw_held_out, draw_leaky

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
    table = examples.pair_table([Scene((RED, BLUE), "white")])
    assert table.sum() == 2
    assert table[0, 0, 0] == 1  # the first colour is red, the first kind circle


def test_false_negatives_are_other_places_with_the_same_pairs():
    turned, other = Scene((BLUE, RED), "black", "right of"), Scene((RED,), "white")
    same = examples.false_negatives([Scene((RED, BLUE), "white"), turned, other], [other, turned, turned])
    assert same.tolist() == [[False, True, True], [False, False, True], [True, False, False]]


def test_info_nce_by_hand():
    """Row 0: logits 0, 0, (left out): log 2. Row 1: logits 0, log 3, 0: log(5/3)."""
    logits = torch.tensor([[0.0, 0.0, 7.0], [0.0, math.log(3), 0.0]])
    same = torch.tensor([[False, False, True], [False, False, False]])
    assert examples.info_nce(logits, same).item() == pytest.approx((math.log(2) + math.log(5 / 3)) / 2)
