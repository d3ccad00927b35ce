"""Stable Diffusion XL (Podell et al., 2023, arXiv:2307.01952) as a `roles.Generator`, for `generate` alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from diffusers import StableDiffusionXLPipeline

from realign_cli.errors import RecordError, UsageError
from realign_cli.models.diffusion.pipeline import PipelineGenerator
from realign_cli.models.loading import silent

if TYPE_CHECKING:
    from PIL.Image import Image

    from realign_cli.roles import Request
    from realign_cli.settings import PhraseControl, RegionControl


class StableDiffusionXL(PipelineGenerator):
    """Stable Diffusion XL: two text encoders, and neither trained nor controlled by regions or phrases.

    Modulation is not built for it: its authors and users report that it does not carry over, and each image also hangs
    on one pooled embedding of the whole prompt, which no mask reaches.
    """

    _kind = StableDiffusionXLPipeline
    _without = {"add_watermarker": False}

    def _generate(
        self, batch: Sequence[Request], control: RegionControl | PhraseControl | None
    ) -> list[Image | RecordError]:
        if control is not None:
            raise UsageError(
                "Stable Diffusion XL is here for plain 'realign generate' alone; take a preset of Stable Diffusion 1.x "
                "to refine or to generate by other methods"
            )
        read = [self._read(request.prompt) for request in batch]
        prompt, negative, pooled, negative_pooled = (torch.cat(each) for each in zip(*read, strict=True))
        return self._draw(
            batch,
            prompt_embeds=prompt,
            negative_prompt_embeds=negative,
            pooled_prompt_embeds=pooled,
            negative_pooled_prompt_embeds=negative_pooled,
        )

    def _read(self, text: str) -> tuple[torch.Tensor, ...]:
        """Token embeddings of a prompt and of none, (1, T, D), and their pooled ones, (1, P); each encoded alone."""
        with silent(), torch.no_grad():
            return self.pipeline.encode_prompt(text, device=self.pipeline.device)
