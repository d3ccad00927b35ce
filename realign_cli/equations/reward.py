"""Eq. 4: the caption reward."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def caption_reward(generated: Tensor, prompt: Tensor) -> Tensor:
    """R_cap = cos(f_enc(t_g), f_enc(t_p)), in [-1, 1].

    Args:
        generated: embeddings of the captions t_g of the generated images, (..., D); of any length but zero.
        prompt: embeddings of the prompts t_p, (..., D).

    Returns:
        One reward per pair, (...).
    """
    return F.cosine_similarity(generated, prompt, dim=-1).clamp(-1, 1)  # rounding may leave the interval
