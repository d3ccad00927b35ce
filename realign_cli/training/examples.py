"""Clean latents to denoise, with their prompts: real images, or the generator's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from realign_cli.training.method import Loss
from realign_cli.training.rewards import penalise

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def denoising_term(
    name: str,
    generator: TrainableGenerator,
    examples: Examples,
    count: int,
    draw: np.random.Generator,
    shares: NDArray[np.float64] | None = None,
) -> Callable[[], Loss]:
    """The loss of diffusion training of `count` examples: L_pre; or with `shares`, which say how often each is drawn.

    The log calls it `name`.
    """

    def term() -> Loss:
        chosen = draw.choice(len(examples.prompts), size=count, p=shares)
        embeddings = generator.embed([examples.prompts[i] for i in chosen])
        latents = examples.latents[torch.from_numpy(chosen)].to(embeddings)
        value = generator.denoising_loss(latents, embeddings, int(draw.integers(2**62))).mean()
        return Loss(value, {f"loss/{name}": value.item()})

    return term
