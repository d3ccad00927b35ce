"""Features of rendered scenes for a Frechet distance, in the place that Inception's pool features have for photos."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from realign_cli.errors import RealignError
from realign_cli.models.blip2 import RESIZING, Checkpoint, images_to_input
from realign_cli.models.fingerprint import fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

SIZE = 64
WIDTH = 64
WEIGHTS = "model.safetensors"


class SceneNet(nn.Sequential):
    """A convolutional net from normalised pixels (B, 3, 64, 64) to features (B, 64)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for inside, outside in ((3, 32), (32, 48), (48, 64)):
            layers += [nn.Conv2d(inside, outside, 3, stride=2, padding=1), nn.GroupNorm(8, outside), nn.GELU()]
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.GELU(), nn.Conv2d(64, 16, 1)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(16 * 8 * 8, WIDTH))


class SceneFeatures:
    """`roles.FeatureExtractor` on `SceneNet`: the 64 values from which it tells colours, kinds, number and places.

    Distances on it are comparable only with distances on it.
    """

    name = "scene net, 64 features of rendered scenes"

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
        features: Tensor = self.net(images_to_input(images, SIZE).to(self.device))
        return features.double().cpu().numpy()
