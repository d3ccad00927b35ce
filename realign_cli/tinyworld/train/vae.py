"""`AutoencoderKL`, 64x64x3 -> 16x16x4: trained first on crops around things, then on whole scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.train.fit import fit

CROP_STEPS, FULL_STEPS = 3500, 800
_KL_WEIGHT = 2e-4
_CROP = 32


def build() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=scenes.SIZE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def main(work: Path) -> None:
    """Train from scratch; latents end up with zero mean and unit standard deviation in each channel."""
    torch.manual_seed(0)
    vae = build().to(memory_format=torch.channels_last)
    images = pixels(4000, seed=11)

    def loss(batch: Tensor, step: int, rank: int) -> Tensor:
        noise = torch.Generator().manual_seed(step * 64 + rank)
        posterior = vae.encode(batch).latent_dist
        latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=noise)
        return F.l1_loss(vae.decode(latents).sample, batch) + _KL_WEIGHT * posterior.kl().mean() / latents[0].numel()

    def crops(step: int, rank: int) -> Tensor:
        rng = np.random.default_rng([step, rank, 1])
        batch = [_crop(images[i], rng) for i in rng.integers(len(images), size=24)]
        return loss(torch.stack(batch).contiguous(memory_format=torch.channels_last), step, rank)

    def full(step: int, rank: int) -> Tensor:
        rng = np.random.default_rng([step, rank, 2])
        batch = images[torch.from_numpy(rng.integers(len(images), size=12))]
        return loss(batch.contiguous(memory_format=torch.channels_last), step, rank)

    fit(vae, crops, steps=CROP_STEPS, learning_rate=2e-3, work=work / "crops", ema=0.998, last=False)
    fit(vae, full, steps=FULL_STEPS, learning_rate=8e-4, work=work / "full", ema=0.998, decay_share=0.8)
    _standardise(vae, images[:1000])
    vae.save_pretrained(work / "model")


def pixels(n: int, seed: int, *, held_out: bool = False) -> Tensor:
    """Render n scenes as float32 (n, 3, 64, 64) in [-1, 1]."""
    stream = scenes.scenes(seed, held_out=held_out)
    return to_pixels(np.stack([scenes.render(next(stream)) for _ in range(n)]))


def to_pixels(images: np.ndarray) -> Tensor:
    """uint8 (n, 64, 64, 3) -> float32 (n, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _crop(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A crop with something in it: the most varied of three."""
    corners = rng.integers(0, scenes.SIZE - _CROP + 1, size=(3, 2))
    parts = [image[:, y : y + _CROP, x : x + _CROP] for x, y in corners]
    return max(parts, key=lambda part: part.std().item())


@torch.no_grad()
def _standardise(vae: AutoencoderKL, images: Tensor) -> None:
    """Fold mean and deviation of the latents into the 1x1 convolutions, so that a pipeline need not scale them."""
    means = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(100)])
    mean, std = means.mean((0, 2, 3)), means.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += (post.weight[..., 0, 0] * mean).sum(1)
    post.weight *= std[None, :, None, None]
    quant.weight[:4] /= std[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) / std
    quant.bias[4:] -= 2 * std.log()
