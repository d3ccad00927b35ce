"""Stable Diffusion XL (Podell et al., 2023, arXiv:2307.01952) as a `roles.Generator`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from diffusers import StableDiffusionXLPipeline

from realign_cli.models.diffusion.stable_diffusion import StableDiffusion
from realign_cli.roles import Conditioning

if TYPE_CHECKING:
    from torch import Tensor


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL: the same with two text encoders, which read the same tokens.

    Their embeddings lie side by side, so that a phrase that is spliced in is spliced in both. Beside them the U-Net is
    told of one pooled embedding of the whole prompt, which has no place in the image and is left as it is, and of
    sizes: those that an image had before it was cut, where the cut begins, and those that it has.
    """

    _kind = StableDiffusionXLPipeline
    _without = {"add_watermarker": False}

    def unprompted(self, prompts: Conditioning) -> Conditioning:
        if self.pipeline.config.force_zeros_for_empty_prompt:
            tokens, pooled = (torch.zeros_like(each) for each in (prompts.tokens, prompts.added["text_embeds"]))
        else:
            blank = self.embed([""])
            tokens = blank.tokens.expand_as(prompts.tokens)
            pooled = blank.added["text_embeds"].expand_as(prompts.added["text_embeds"])
        return Conditioning(tokens, {**prompts.added, "text_embeds": pooled})

    def _added(self, pooled: Sequence[Tensor], framings: Tensor | None) -> Mapping[str, Tensor]:
        (each,) = pooled
        width, height = self._size
        if framings is None:
            framings = torch.tensor([[height, width, 0, 0]]).expand(len(each), -1)
        target = torch.tensor([[height, width]]).expand(len(each), -1)
        return {"text_embeds": each, "time_ids": torch.cat([framings, target], 1).to(each)}

    def _arguments(self, prompts: Conditioning, blank: Conditioning) -> dict[str, Tensor]:
        return {
            **super()._arguments(prompts, blank),
            "pooled_prompt_embeds": prompts.added["text_embeds"],
            "negative_pooled_prompt_embeds": blank.added["text_embeds"],
        }
