from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scenes import SHAPES, SIZE, Scene, Thing
from realign_cli.tinyworld.train.pictures import (
    Pictures,
    _blur,
    _loose_scene,
    boxes_of,
    draw_held_out,
    draw_leaky,
    draw_loose,
    render,
)


def test_pictures_are_repeatable_and_true_to_their_description() -> None:
    first, again = (draw_loose(40, np.random.default_rng(1)) for _ in range(2))
    assert torch.equal(first.pixels, again.pixels)
    assert first.pixels.shape == (40, 3, SIZE, SIZE)
    assert torch.equal(first.pixels, (255 * first.pixels).round().clamp(0, 255) / 255)
    for kinds, masks, boxes in zip(first.kinds, first.masks, first.boxes, strict=True):
        assert len(kinds) == len(masks) == len(boxes)
        assert set(kinds) <= set(SHAPES)
        assert all(mask.any() for mask in masks)
        assert torch.equal(boxes_of(masks), boxes)


def test_training_pictures_hold_repeated_kinds_and_empty_scenes() -> None:
    kinds = draw_loose(300, np.random.default_rng(2)).kinds
    assert any(len(set(own)) < len(own) for own in kinds)
    assert any(not own for own in kinds)


def test_loose_arrangements_keep_to_the_training_split() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        pairs = [thing.pair for thing in _loose_scene(rng).things]
        assert not scenes.HELD_OUT_PAIRS & set(pairs)
        assert not any(scenes.is_held_out(a, b) for a, b in combinations(pairs, 2))


def test_unspoiled_held_out_pictures_are_plain_renderings() -> None:
    pictures = draw_loose(3, np.random.default_rng(4), held_out=True, spoil=False)
    rng = np.random.default_rng(4)
    scene = scenes.sample_scene(rng, held_out=True)
    assert torch.equal((255 * pictures.pixels[0]).permute(1, 2, 0), torch.from_numpy(scenes.render(scene)).float())
    assert pictures.kinds[0] == [thing.shape for thing in scene.things]


def test_boxes_are_tight_with_exclusive_far_edges() -> None:
    masks = torch.zeros(2, 8, 10, dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    assert boxes_of(masks).tolist() == [[3, 2, 9, 5], [0, 0, 0, 0]]


def test_blur_keeps_the_mean_and_leaves_others_alone() -> None:
    dot = torch.zeros(2, 3, SIZE, SIZE)
    dot[..., 32, 32] = 1
    blurred = _blur(dot, torch.tensor([0.0, 1.0]), reach=4)
    assert torch.equal(blurred[0], dot[0])
    assert blurred[1].sum().item() == pytest.approx(3, rel=1e-5)
    assert blurred[1, 0, 32, 32] == pytest.approx(1 / (2 * np.pi), rel=0.02)


def test_the_same_seed_draws_the_same_batch() -> None:
    first, again, other = (draw_leaky(4, np.random.default_rng([1, seed])) for seed in (2, 2, 3))
    assert first.scenes == again.scenes
    assert torch.equal(first.pixels, again.pixels)
    assert first.scenes != other.scenes


def test_some_training_scenes_leak_an_attribute() -> None:
    drawn = draw_leaky(400, np.random.default_rng([1, 2]))
    several = [scene for scene in drawn.scenes if len(scene.things) > 1]
    leaking = [
        s
        for s in several
        if any(not scenes.compatible(a, b) for a, b in combinations([thing.pair for thing in s.things], 2))
    ]
    assert 0.1 < len(leaking) / len(several) < 0.4


def test_spoiling_leaves_some_pictures_alone_and_changes_the_others() -> None:
    clean = draw_held_out(40, 1)
    spoiled = clean.spoiled(np.random.default_rng(0))
    change = (spoiled.pixels - clean.pixels).abs().mean((1, 2, 3))
    assert 3 <= (change < 1e-3).sum() <= 20
    assert change.max() < 0.2
    assert spoiled.pixels.min() >= 0 and spoiled.pixels.max() <= 1


def test_masks_follow_outlines_that_were_bent() -> None:
    """Where masks say that a thing is, pictures have its colour; the masks of before fit less well."""
    things = (Thing("red", "circle", 20, 20, 13), Thing("blue", "square", 46, 46, 12))
    clean = render([Scene(things, "white")] * 40)
    spoiled = clean.spoiled(np.random.default_rng(0))
    palette = torch.tensor([scenes.COLOURS[thing.colour] for thing in things] + [scenes.GROUNDS["white"]]) / 255
    nearest = (spoiled.pixels[:, None] - palette[:, :, None, None]).square().sum(2).argmin(1)
    seen = torch.stack([nearest == index for index in range(len(things))], 1)

    def fit(pictures: Pictures) -> float:
        masks = torch.stack(pictures.masks)
        return float(((seen & masks).sum((2, 3)) / (seen | masks).sum((2, 3))).mean())

    assert fit(spoiled) > 0.95 > fit(clean)


def test_what_covers_a_thing_hides_it() -> None:
    (masks,) = render([Scene((Thing("red", "circle", 30, 30, 10), Thing("blue", "circle", 30, 30, 6)), "white")]).masks
    assert masks[1][30, 30] and not masks[0][30, 30]
    assert not (masks[0] & masks[1]).any()
