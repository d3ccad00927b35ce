"""The vision tower that CLIP starts from."""

from __future__ import annotations

import open_clip
import torch
from torch import nn
from transformers import Blip2VisionModel

from realign_cli.tinyworld.train import clip
from realign_cli.tinyworld.train.captioner import vision_config


@torch.no_grad()
def test_copied_tower_sees_what_the_original_sees():
    torch.manual_seed(0)
    source = Blip2VisionModel(vision_config()).eval()
    for parameter in source.parameters():
        nn.init.normal_(parameter, std=0.1)
    target = open_clip.CLIP(**clip.configuration()).visual.eval()
    clip.copy_tower(source, target)
    target.output_tokens = True
    pixels = torch.randn(2, 3, 64, 64)
    assert torch.allclose(target(pixels)[1], source(pixels).last_hidden_state[:, 1:], atol=1e-3)
