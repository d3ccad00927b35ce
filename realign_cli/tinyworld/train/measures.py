"""What is measured of more than one embedded model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from realign_cli.tinyworld.train.pictures import Pictures
from realign_cli.tinyworld.train.examples import caption_of, swaps


def prefers_truth(score: Callable[[Tensor, list[str]], Tensor], pictures: Pictures, seed: int) -> list[bool]:
    """For each scene with colours to trade, whether `score(pixels, captions)` is higher for the true caption.

    The other caption has the colours of two things swapped. Both name the things in the same order, joined by "and".
    """
    rng = np.random.default_rng(seed)
    rows, true, swapped = [], [], []
    for k, scene in enumerate(pictures.scenes):
        options = swaps(scene)
        if options:
            order = list(rng.permutation(len(scene.things)))
            other = options[rng.integers(len(options))]
            rows.append(k)
            true.append(caption_of([scene.things[i] for i in order]))
            swapped.append(caption_of([other.things[i] for i in order]))
    pixels = pictures.pixels[rows]
    return (score(pixels, true) > score(pixels, swapped)).tolist()
