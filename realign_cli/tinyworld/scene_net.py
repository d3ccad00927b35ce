"""Features of rendered scenes for a Frechet distance, in the place that Inception's pool features have for photos."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from realign_cli.errors import RealignError
from realign_cli.models.fingerprint import fingerprint
from realign_cli.models.pixels import RESIZING, images_to_input

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from realign_cli.models.loading import Checkpoint

SIZE = 64
PAIRS, COUNTS, GROUNDS = 40, 3, 3  # pairs of a colour and a kind, numbers of things and grounds of the rendered scenes
WIDTH = PAIRS + 4 * 4 + COUNTS + GROUNDS + 1
WEIGHTS = "model.safetensors"


class Answers(NamedTuple):
    """What `SceneNet` says of B pictures, as logits but for the last."""

    cells: Tensor  # (B, PAIRS + 1, 8, 8): the pair over each cell, or none
    counts: Tensor  # (B, COUNTS)
    grounds: Tensor  # (B, GROUNDS)
    damage: Tensor  # (B,): 0 for a clean picture, about 2 for a much spoiled one


class SceneNet(nn.Module):
    """A convolutional net from normalised pixels (B, 3, 64, 64) to `Answers`."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside, stride in ((3, 32, 2), (32, 64, 2), (64, 96, 2), (96, 96, 1), (96, 96, 1)):
            layers += [nn.Conv2d(inside, outside, 3, stride, padding=1), nn.GroupNorm(8, outside), nn.GELU()]
        self.body = nn.Sequential(*layers)
        self.cells = nn.Conv2d(96, PAIRS + 1, 1)
        self.whole = nn.Linear(PAIRS + 1 + 96, COUNTS + GROUNDS + 1)

    def forward(self, pixels: Tensor) -> Answers:
        maps = self.body(pixels)
        cells = self.cells(maps)
        means = [cells.softmax(1).mean((2, 3)), maps.mean((2, 3))]
        counts, grounds, damage = self.whole(torch.cat(means, 1)).split([COUNTS, GROUNDS, 1], 1)
        return Answers(cells, counts, grounds, damage[:, 0])


def anywhere(cells: Tensor) -> Tensor:
    """How surely each pair is shown by any cell: (B, PAIRS) in [0, 1]."""
    return cells.softmax(1)[:, :PAIRS].amax((2, 3))


def features(answers: Answers) -> Tensor:
    """(B, WIDTH), all of the order of 1, so that no answer drowns the others in a Frechet distance.

    How surely each pair is shown, how much of each 16th of the picture is covered, the probabilities of each number
    and each ground, and the damage. Pairs are read from single cells, so that pairs never seen together are read, too.
    """
    covered = 1 - answers.cells.softmax(1)[:, PAIRS]
    parts = [
        anywhere(answers.cells),
        F.avg_pool2d(covered, 2).flatten(1),
        answers.counts.softmax(1),
        answers.grounds.softmax(1),
        answers.damage[:, None],
    ]
    return torch.cat(parts, 1)


class SceneFeatures:
    """`roles.FeatureExtractor` on `SceneNet`: what is shown, where it is, and how clean the picture is.

    Distances on it are comparable only with distances on it.
    """

    name = f"scene net, {WIDTH} features of rendered scenes"

    def __init__(self, checkpoint: Checkpoint, *, device: str) -> None:
        path = Path(checkpoint) / WEIGHTS
        if not path.is_file():
            raise RealignError(f"{path}: not found; name a folder that holds the weights of the scene net")
        self.net = SceneNet()
        self.net.load_state_dict(load_file(path))
        self.net.to(device).eval().requires_grad_(False)
        self.device = device

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.net, RESIZING, self.name)

    @torch.no_grad()
    def features(self, images: Sequence[Image]) -> NDArray[np.float64]:
        if not images:
            return np.empty((0, WIDTH))
        # One by one: matrix products of some processors round a row by its place in the batch.
        rows = [features(self.net(pixels[None].to(self.device))) for pixels in images_to_input(images, SIZE)]
        return torch.cat(rows).double().cpu().numpy()
