"""Inception features for FID and KID: the network and weights of pytorch-fid (Seitzer 2020; Heusel et al. 2017)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from pytorch_fid import inception as published
from torch import Tensor, nn
from torchvision.models import inception_v3

from realign_cli.errors import RealignError, UsageError, first_line
from realign_cli.models.fingerprint import fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

Resize = Literal["pytorch-fid", "clean", "none"]
PUBLISHED = "pytorch-fid"
WIDTH = 2048
_SIZE = 299
_SMALLEST = 75  # pixels of a side that the network can read


class InceptionFeatures:
    """`roles.FeatureExtractor`: the 2,048 pooled features of the Inception of the first FID.

    `checkpoint` is "pytorch-fid", the published weights, from torch's hub folder (`TORCH_HOME`) or the network; or a
    file with a state dict of that network. `resize` decides what becomes of other sizes than 299 x 299, and the
    distance with it:

    - `pytorch-fid`: bilinear without antialiasing, as pytorch-fid does;
    - `clean`: bicubic with antialiasing on float pixels, clipped to their range, as Parmar et al. 2022 advise;
    - `none`: the image as it is, at least 75 pixels wide and high.

    Raises:
        RealignError: there are no weights.
        UsageError: no such `resize`.
    """

    def __init__(self, checkpoint: str | os.PathLike[str], *, device: str, resize: Resize = "pytorch-fid") -> None:
        if resize not in get_args(Resize):
            raise UsageError(f"fid.resize={resize}: choose {', '.join(get_args(Resize))}")
        weights = _weights(os.fspath(checkpoint))
        self.net = fid_inception()
        try:
            self.net.load_state_dict(weights)
        except RuntimeError:
            raise RealignError(f"{checkpoint}: not a state dict of pytorch-fid's Inception") from None
        self.net.fc = nn.Identity()
        self.net.to(device).eval().requires_grad_(False)
        self.device = device
        self.resize = resize
        source = "pytorch-fid's weights" if checkpoint == PUBLISHED else f"weights of {Path(checkpoint).name}"
        self.name = f"Inception pool features, {source}, resize {resize}"

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.net, self.resize)

    @torch.no_grad()
    def features(self, images: Sequence[Image]) -> NDArray[np.float64]:
        features = np.empty((len(images), WIDTH))
        pixels = [self._pixels(image) for image in images]
        for size in {one.shape for one in pixels}:  # only `none` knows more than one
            rows = [i for i, one in enumerate(pixels) if one.shape == size]
            batch = torch.stack([pixels[i] for i in rows]).to(self.device)
            features[rows] = self.net(2 * batch - 1).double().cpu().numpy()
        return features

    def _pixels(self, image: Image) -> Tensor:
        """Resized pixels in [0, 1], (3, H, W)."""
        image = image.convert("RGB")
        if self.resize == "clean":
            channels = [np.asarray(band, np.float32) for band in image.split()]
            resized = [
                PILImage.fromarray(channel).resize((_SIZE, _SIZE), PILImage.Resampling.BICUBIC) for channel in channels
            ]
            return torch.from_numpy(np.stack([np.asarray(one) for one in resized]).clip(0, 255) / 255)
        pixels = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1) / 255
        if self.resize == "none":
            if min(image.size) < _SMALLEST:
                raise UsageError(
                    f"an image of {image.width} x {image.height} pixels is too small for resize none: "
                    f"{_SMALLEST} are the least; choose another fid.resize"
                )
            return pixels
        return F.interpolate(pixels[None], (_SIZE, _SIZE), mode="bilinear", align_corners=False)[0]


def fid_inception() -> nn.Module:
    """torchvision's Inception with the blocks in which the one of the first FID differs, and without weights."""
    net = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    for name, width, features in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        setattr(net, f"Mixed_{name}", published.FIDInceptionA(width, pool_features=features))
    for name, channels in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        setattr(net, f"Mixed_{name}", published.FIDInceptionC(768, channels_7x7=channels))
    net.Mixed_7b, net.Mixed_7c = published.FIDInceptionE_1(1280), published.FIDInceptionE_2(WIDTH)
    return net


def _weights(checkpoint: str) -> dict[str, Tensor]:
    try:
        if checkpoint == PUBLISHED:
            url = published.FID_WEIGHTS_URL
            return torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True, weights_only=True)
        return torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        place = Path(torch.hub.get_dir()) / "checkpoints"
        raise RealignError(
            f"no Inception weights at {checkpoint} ({first_line(error)}): put {published.FID_WEIGHTS_URL} (95 MB) "
            f"into {place}, or name a file with --set fid.checkpoint=FILE; '--preset tiny' has features of its own"
        ) from None
