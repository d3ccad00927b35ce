from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    """A small one of the shape of Stable Diffusion 1.x: random weights, latents of 16 x 16, texts 16 wide, 2 heads."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=16,
        attention_head_dim=2,  # which is the number of heads
        norm_num_groups=4,
    ).eval()
    with torch.no_grad():  # sharp attention: random weights would attend evenly
        for name, weight in unet.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                weight *= 4
    return unet.requires_grad_(False)
