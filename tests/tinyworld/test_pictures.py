from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scenes import SHAPES, SIZE
from realign_cli.tinyworld.train.pictures import _blur, _loose, boxes_of, draw


def test_pictures_are_repeatable_and_true_to_their_description() -> None:
    first, again = (draw(np.random.default_rng(1), 40) for _ in range(2))
    assert torch.equal(first.pixels, again.pixels)
    assert first.pixels.shape == (40, 3, SIZE, SIZE)
    assert torch.equal(first.pixels, first.pixels.round().clamp(0, 255))
    for kinds, masks, boxes in zip(first.kinds, first.masks, first.boxes, strict=True):
        assert len(kinds) == len(masks) == len(boxes)
        assert set(kinds) <= set(SHAPES)
        assert all(mask.any() for mask in masks)
        assert torch.equal(boxes_of(masks), boxes)


def test_training_pictures_hold_repeated_kinds_and_empty_scenes() -> None:
    kinds = draw(np.random.default_rng(2), 300).kinds
    assert any(len(set(own)) < len(own) for own in kinds)
    assert any(not own for own in kinds)


def test_loose_arrangements_keep_to_the_training_split() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        pairs = [thing.pair for thing in _loose(rng)]
        assert not scenes.HELD_OUT_PAIRS & set(pairs)
        assert not any(scenes.is_held_out(a, b) for a, b in combinations(pairs, 2))


def test_unspoiled_held_out_pictures_are_plain_renderings() -> None:
    pictures = draw(np.random.default_rng(4), 3, held_out=True, spoil=False)
    rng = np.random.default_rng(4)
    scene = scenes.sample_scene(rng, held_out=True)
    assert torch.equal(pictures.pixels[0].permute(1, 2, 0), torch.from_numpy(scenes.render(scene)).float())
    assert pictures.kinds[0] == [thing.shape for thing in scene.things]


def test_boxes_are_tight_with_exclusive_far_edges() -> None:
    masks = torch.zeros(2, 8, 10, dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    assert boxes_of(masks).tolist() == [[3, 2, 9, 5], [0, 0, 0, 0]]


def test_blur_keeps_the_mean_and_leaves_others_alone() -> None:
    dot = torch.zeros(2, 3, SIZE, SIZE)
    dot[..., 32, 32] = 1
    blurred = _blur(dot, np.array([0.0, 1.0]))
    assert torch.equal(blurred[0], dot[0])
    assert blurred[1].sum().item() == pytest.approx(3, rel=1e-5)
    assert blurred[1, 0, 32, 32] == pytest.approx(1 / (2 * np.pi), rel=0.02)
