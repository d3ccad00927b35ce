"""Clean latents to denoise, with their prompts: real images, or the generator's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from realign_cli.training.rewards import penalise

if TYPE_CHECKING:
    from realign_cli.roles import Reward, TrainableGenerator


@dataclass(frozen=True)
class Examples:
    """Clean latents (N, C, h, w) and their prompts, for L_pre; with penalties (N,), for reward-weighted denoising."""

    latents: Tensor
    prompts: Sequence[str]
    penalties: Tensor | None = None


def own_latents(generator: TrainableGenerator, prompts: Sequence[str], batch_size: int, seed: int) -> Iterator[Tensor]:
    """Images of the model as it is, batch by batch, where there are no real images.

    Without guidance: the denoising loss teaches the prediction that guidance starts from, and what is drawn with
    guidance would be guided twice.
    """
    seeds = np.random.default_rng(seed).integers(2**62, size=len(prompts)).tolist()
    for i in range(0, len(prompts), batch_size):
        noise = generator.initial_noise(seeds[i : i + batch_size])
        yield generator.denoise(noise, generator.embed(prompts[i : i + batch_size]), 0, generator.steps, guided=False)


def real_latents(generator: TrainableGenerator, images: Iterable[Image.Image | None], size: int) -> Iterator[Tensor]:
    """Real images, one by one, cut to a centred square of `size` pixels; NaN for one that there is not."""
    for image in images:
        square = ImageOps.fit(image or Image.new("RGB", (size, size)), (size, size))
        pixels = np.asarray(square, dtype=np.float32) / 255
        latents = generator.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        yield latents if image else torch.full_like(latents, torch.nan)


@torch.no_grad()
def penalties(
    generator: TrainableGenerator,
    rewards: Mapping[str, Reward],
    weights: Mapping[str, float],
    examples: Examples,
    batch_size: int,
    seed: int,
) -> Iterator[Tensor]:
    """What the rewards make of each example, batch by batch."""
    for i in range(0, len(examples.prompts), batch_size):
        pixels = generator.decode(examples.latents[i : i + batch_size])
        yield penalise(rewards, weights, pixels, examples.prompts[i : i + batch_size], seed + i)[0]
