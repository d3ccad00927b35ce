"""Scenes that went wrong, and the malformed shapes in them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scenes import SHAPES, SIZE, Scene, Thing
from realign_cli.tinyworld.train import examples, malformed
from realign_cli.tinyworld.train.faults import faulty_scene
from realign_cli.tinyworld.train.pictures import draw_faults, draw_faulty, draw_leaky


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    rng = np.random.default_rng(0)
    return [faulty_scene(rng)[0] for _ in range(600)]


def known(scene: Scene) -> list[tuple[str, str]]:
    return [thing.pair for thing in scene.things if thing.shape in SHAPES]


def test_training_scenes_with_faults_never_show_what_is_held_out(drawn: list[Scene]) -> None:
    for scene in drawn:
        pairs = set(known(scene))
        assert not scenes.HELD_OUT_PAIRS & pairs
        assert not any(scenes.is_held_out(a, b) for a, b in combinations(pairs, 2))


def test_every_kind_of_fault_is_common(drawn: list[Scene]) -> None:
    def among(kind: str) -> float:
        return sum(kind in faults(scene) for scene in drawn) / len(drawn)

    def faults(scene: Scene) -> set[str]:
        pairs = known(scene)
        found = {"alike"} if len(set(pairs)) < len(pairs) else set()
        found |= {"malformed"} if len(pairs) < len(scene.things) else set()
        leaking = any((a[0] == b[0]) != (a[1] == b[1]) for a, b in combinations(pairs, 2))
        return found | ({"leaking"} if leaking else set()) | (set() if found or leaking else {"none"})

    assert all(among(kind) > 0.1 for kind in ("alike", "malformed", "leaking", "none"))
    assert {len(scene.things) for scene in drawn} >= {1, 2, 3, 4}
    assert any(
        a.colour != b.colour for s in drawn for a, b in combinations(s.things, 2) if a.shape == b.shape == "thing"
    )


def test_held_out_scenes_with_faults_begin_with_a_held_out_combination() -> None:
    rng = np.random.default_rng(1)
    shown = [set(known(faulty_scene(rng, held_out=True)[0])) for _ in range(100)]
    held_out = [any(scenes.is_held_out(a, b) for a, b in combinations(pairs, 2)) for pairs in shown]
    assert sum(held_out) > 60  # in the others one of the two is malformed


def test_a_mask_covers_where_its_thing_is() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        scene, masks = faulty_scene(rng)
        assert len(masks) == len(scene.things)
        for thing, mask in zip(scene.things, masks, strict=True):
            assert mask.shape == (SIZE, SIZE) and mask.dtype == np.float32
            assert mask.min() >= 0 and 0.5 < mask.max() <= 1
            y, x = np.mgrid[:SIZE, :SIZE] + 0.5
            near = np.hypot(x - thing.x, y - thing.y) < 3 * thing.radius + 2
            assert mask[~near].max(initial=0) < 0.01


@pytest.mark.parametrize("recipe", malformed._RECIPES, ids=lambda recipe: recipe.__name__)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_recipe_makes_a_shape_of_a_known_kind(recipe, shape: str) -> None:
    """None of any kind, in its place and about as large, covers nine tenths of what the two cover together."""
    rng = np.random.default_rng(3)
    thing = Thing("red", shape, 32, 32, 12)
    for _ in range(10):
        mask = recipe(thing, rng)
        ys, xs = np.nonzero(mask > 0.5)
        centre = (xs.min() + xs.max() + 1) / 2, (ys.min() + ys.max() + 1) / 2
        reach = max(np.ptp(xs), np.ptp(ys)) + 1
        for kind in SHAPES:
            for scale in (0.4, 0.5, 0.58):
                other = scenes.mask(Thing("red", kind, *map(float, centre), float(scale * reach)))
                assert np.minimum(mask, other).sum() < 0.9 * np.maximum(mask, other).sum(), kind


def test_pictures_with_faults_are_repeatable_and_half_of_them_leaky() -> None:
    first, again, other = (draw_faulty(8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.scenes == again.scenes != other.scenes
    assert torch.equal(first.pixels, again.pixels)
    assert first.pixels.shape == (8, 3, SIZE, SIZE) and first.pixels.min() >= 0 and first.pixels.max() <= 1
    assert [len(share) for share in first.shares] == [len(scene.things) for scene in first.scenes]
    assert first.scenes[:4] == draw_leaky(4, np.random.default_rng(1)).scenes


def test_clean_pictures_with_faults_have_the_colours_of_their_things() -> None:
    drawn = draw_faults(50, np.random.default_rng(5))
    for scene, pixels, shares in zip(drawn.scenes, drawn.pixels, drawn.shares, strict=True):
        for thing, share in zip(scene.things, shares, strict=True):
            if (share == 1).any():
                colour = torch.tensor(scenes.COLOURS[thing.colour]) / 255
                assert (pixels[:, share == 1] - colour[:, None]).abs().amax(0).min() < 0.01
    assert any(examples.MALFORMED in examples.canonical(scene) for scene in drawn.scenes)
