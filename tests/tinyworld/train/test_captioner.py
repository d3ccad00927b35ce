"""What the captioner's vision tower is told of each patch."""

from __future__ import annotations

from dataclasses import replace

import torch

from realign_cli.tinyworld.scenes import COLOURS, Scene, Thing
from realign_cli.tinyworld.train.captioner import _labels
from realign_cli.tinyworld.train.examples import KINDS, MALFORMED
from realign_cli.tinyworld.train.pictures import Pictures, render


def test_patches_are_labelled_with_the_thing_that_covers_most_of_them() -> None:
    square = Thing("red", "square", 16, 16, 8)
    scene = Scene((square, replace(square, x=48), Thing("blue", "circle", 16, 48, 9)), "white")
    drawn = render([scene])
    broken = replace(scene, things=(*scene.things[:2], replace(scene.things[2], shape=MALFORMED)))
    colours, kinds, numbers = (rows.view(8, 8) for rows in _labels(Pictures([broken], drawn.pixels, drawn.shares)))
    assert colours[1, 1] == colours[2, 5] == list(COLOURS).index("red")
    assert kinds[1, 1] == kinds[2, 5] == KINDS.index("square")
    assert colours[6, 1] == list(COLOURS).index("blue")
    assert kinds[6, 1] == KINDS.index(MALFORMED)
    assert numbers[1, 1] == numbers[2, 5] == 2 and numbers[6, 1] == 1
    free = torch.tensor([colours[0, 3], colours[4, 7], kinds[0, 3], kinds[4, 7], numbers[0, 3], numbers[4, 7]])
    assert free.tolist() == [*[len(COLOURS)] * 2, *[len(KINDS)] * 2, 0, 0]
