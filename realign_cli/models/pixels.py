"""Images as the input of a network: resized, normalised, differentiable where asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images, used by BLIP-2 as well
STD = (0.26862954, 0.26130258, 0.27577711)
RESIZING = "bicubic with antialiasing, aspect ratio not kept"


def pixels_to_input(pixels: Tensor, size: int, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """Resize and normalise float pixels in [0, 1], (B, 3, H, W), to what the vision model reads, (B, 3, size, size).

    Bicubic with antialiasing, as published BLIP-2 and CLIP preprocess, but on tensors, so that gradients reach the
    pixels. The aspect ratio is not kept.
    """
    pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    centre, spread = (pixels.new_tensor(values)[:, None, None] for values in (mean, std))
    return (pixels.clamp(0, 1) - centre) / spread  # bicubic overshoots at edges


def images_to_input(images: Sequence[Image], size: int, **normalisation: Any) -> Tensor:
    """`pixels_to_input` of PIL images of any mode and any mix of sizes."""
    arrays = [np.array(image.convert("RGB"), dtype=np.float32) / 255 for image in images]
    pixels = [torch.from_numpy(array).permute(2, 0, 1)[None] for array in arrays]
    return torch.cat([pixels_to_input(one, size, **normalisation) for one in pixels])
