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
    """Clean latents (N, C, h, w) and their prompts, for L_pre; with penalties (N,), for reward-weighted denoising.

    Those of real images have `framings` (N, 4), see `TrainableGenerator.embed`.
    """

    latents: Tensor
    prompts: Sequence[str]
    penalties: Tensor | None = None
    framings: Tensor | None = None


Rows = dict[str, Tensor]  # some of the tensors of examples, by name


def own_latents(generator: TrainableGenerator, prompts: Sequence[str], batch_size: int, seed: int) -> Iterator[Rows]:
    """Images of the model as it is, batch by batch, where there are no real images.

    Without guidance: the denoising loss teaches the prediction that guidance starts from, and what is drawn with
    guidance would be guided twice.
    """
    seeds = np.random.default_rng(seed).integers(2**62, size=len(prompts)).tolist()
    for i in range(0, len(prompts), batch_size):
        noise = generator.initial_noise(seeds[i : i + batch_size])
        embeddings = generator.embed(prompts[i : i + batch_size])
        yield {"latents": generator.denoise(noise, embeddings, 0, generator.steps, guided=False)}


def real_latents(
    generator: TrainableGenerator, images: Iterable[Image.Image | None], size: tuple[int, int]
) -> Iterator[Rows]:
    """Real images and how they were cut, one by one, to the centre in `size` (width, height).

    Latents are NaN for an image that there is not.
    """
    for image in images:
        whole = image or Image.new("RGB", size)
        pixels = np.asarray(ImageOps.fit(whole, size), dtype=np.float32) / 255
        latents = generator.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        framings = torch.tensor([framing(whole.size, size)])
        yield {"latents": latents if image else torch.full_like(latents, torch.nan), "framings": framings}


def framing(whole: tuple[int, int], size: tuple[int, int]) -> list[int]:
    """What Stable Diffusion XL is told of an image cut to the centre (its paper, section 2.2), of widths and heights.

    Its height and width, and where the cut begins, from top and left, once the image is scaled to reach over `size`.
    """
    scale = max(new / old for new, old in zip(size, whole, strict=True))
    left, top = (round((old * scale - new) / 2) for new, old in zip(size, whole, strict=True))
    return [whole[1], whole[0], top, left]


@torch.no_grad()
def penalties(
    generator: TrainableGenerator,
    rewards: Mapping[str, Reward],
    weights: Mapping[str, float],
    examples: Examples,
    batch_size: int,
    seed: int,
) -> Iterator[Rows]:
    """What the rewards make of each example, batch by batch."""
    for i in range(0, len(examples.prompts), batch_size):
        pixels = generator.decode(examples.latents[i : i + batch_size])
        found, _ = penalise(rewards, weights, pixels, examples.prompts[i : i + batch_size], seed + i)
        yield {"penalties": found}
