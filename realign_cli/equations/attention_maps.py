"""Where an image attended to the tokens of its prompt: running sums of cross-attention become maps, and maps numbers.

The maps are those of DAAM (Tang et al., ACL 2023): the cross-attention of the conditional half, all layers, heads and
steps alike. DAAM enlarges each head's map by bicubic interpolation, which undershoots, and cuts off what falls below 0;
here the sums of each resolution are enlarged, and bilinearly, so that nothing has to be cut off and the attention of a
pixel stays a share of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def token_maps(sums: Sequence[Tensor]) -> Tensor:
    """The share of each pixel's attention that each token has, float32 (T, H, W); over the tokens they sum to 1.

    Args:
        sums: of each resolution, (T, h, w): the sum over its layers and all steps of attention that is a mean over
            heads, so that a resolution weighs as much as it has layers. H x W is the largest of them.
    """
    height, width = max((tuple(one.shape[-2:]) for one in sums), key=lambda size: size[0] * size[1])
    total = torch.zeros(len(sums[0]), height, width, device=sums[0].device)
    for one in sums:
        total += F.interpolate(one[None].float(), (height, width), mode="bilinear", align_corners=False)[0]
    return total / total.sum(0)


def share_inside(attention_map: Tensor, mask: Tensor) -> float:
    """How much of a map (h, w), at least 0, lies in a mask, bool (H, W): from 0 to 1, and 0 of a map that is 0.

    A cell counts by how much of it the mask covers. An even map has the mask's share of the image.
    """
    height, width = attention_map.shape
    covered = F.adaptive_avg_pool2d(mask[None].float(), (height, width))[0]
    total = attention_map.sum()
    return float((attention_map * covered).sum() / total) if total > 0 else 0.0
