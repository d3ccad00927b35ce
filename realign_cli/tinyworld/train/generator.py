"""The denoising U-Net; with the autoencoder and the text encoder it makes the whole `StableDiffusionPipeline`.

Captions are corrupted (`scenes.corrupt`) as web captions are. From them the model learns to confuse which colour
belongs to which shape: the misalignment that realignment is meant to repair. Train `vae` and `text` first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import CLIPTextModel

from realign_cli.files import atomic
from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.oracle import Oracle
from realign_cli.tinyworld.train import text
from realign_cli.tinyworld.train.fit import fit, rank_of_process
from realign_cli.tinyworld.train.publish import model_card, publish
from realign_cli.tinyworld.train.vae import CROP_STEPS, FULL_STEPS, to_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCENES = 40_000
STEPS = 4800
_BATCH = 32  # for each process
_BLANK = 0.1  # share of empty captions, for classifier-free guidance
_MEASURED = 500
_PARTS = ("vae", "text_encoder", "text_encoder_2", "unet")
_MIN_SNR = 5.0  # loss weights of Hang et al. (2023)


def build() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=(2, 4, 4),  # the number of heads, under the name that diffusers gives it
        norm_num_groups=8,
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def scenes_and_latents(vae: AutoencoderKL, path: Path) -> tuple[list[scenes.Scene], Tensor]:
    """Training scenes and their latents (`SCENES`, 4, 16, 16), encoded once and kept at `path`."""
    stream = scenes.scenes(21)
    drawn = [next(stream) for _ in range(SCENES)]
    if path.exists():
        return drawn, load_file(path)["latents"]
    with torch.no_grad():
        parts = [
            vae.encode(to_pixels(np.stack([scenes.render(s) for s in drawn[i : i + 100]]))).latent_dist.mean.half()
            for i in range(0, SCENES, 100)
        ]
    latents = torch.cat(parts).contiguous()
    if rank_of_process() == 0:
        atomic.write_bytes(path, save({"latents": latents}))
    return drawn, latents


def denoising_loss(
    unet: UNet2DConditionModel,
    drawn: Sequence[scenes.Scene],
    latents: Tensor,
    conditioning: Callable[[Tensor, NDArray[np.int64]], dict[str, Any]],
) -> Callable[[int, int], Tensor]:
    """The loss of `fit`; `conditioning` is what `unet` is told by the ids of captions and the numbers of scenes."""
    words, noise = text.tokenizer(), scheduler()
    signal = noise.alphas_cumprod
    weight = (_MIN_SNR * (1 - signal) / signal).clamp(max=1.0)

    def loss(step: int, rank: int) -> Tensor:
        rng = np.random.default_rng([step, rank, 4])
        generator = torch.Generator().manual_seed(step * 64 + rank)
        chosen = rng.integers(len(drawn), size=_BATCH)
        captions = [scenes.corrupt(drawn[i], rng, swap=scenes.SWAP, drop=scenes.DROP) for i in chosen]
        captions = ["" if rng.random() < _BLANK else caption for caption in captions]
        ids = words(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            told = conditioning(ids, chosen)
        clean = latents[torch.from_numpy(chosen)].float()
        t = torch.randint(0, 1000, (_BATCH,), generator=generator)
        epsilon = torch.randn(clean.shape, generator=generator)
        predicted = unet(noise.add_noise(clean, epsilon, t), t, **told).sample
        error = F.mse_loss(predicted, epsilon, reduction="none").mean((1, 2, 3))
        return (weight[t] * error).mean()

    return loss


def main(work: Path) -> None:
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(work.parent / "vae" / "model")
    encoder = CLIPTextModel.from_pretrained(work.parent / "text" / "model").requires_grad_(False)
    unet = build()
    drawn, latents = scenes_and_latents(vae, work.parent / "latents.safetensors")

    def conditioning(ids: Tensor, _chosen: NDArray[np.int64]) -> dict[str, Tensor]:
        return {"encoder_hidden_states": encoder(ids).last_hidden_state}

    loss = denoising_loss(unet, drawn, latents, conditioning)
    minutes = fit(unet, loss, steps=STEPS, learning_rate=1.2e-3, work=work, ema=0.998, decay_share=0.5)
    made = pipeline(unet, vae, encoder)
    card = describe(made, f"vae {CROP_STEPS} on crops and {FULL_STEPS} on scenes, unet {STEPS}", minutes)
    folder = work / "model"
    made.to(torch.float16).save_pretrained(folder)
    publish("generator", folder, card)


def pipeline(unet: UNet2DConditionModel, vae: AutoencoderKL, encoder: CLIPTextModel) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=text.tokenizer(),
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def describe(made: DiffusionPipeline, steps: str, minutes: float) -> dict[str, str]:
    """The card of the whole pipeline, measured in single precision."""
    stream = scenes.scenes(91, held_out=True)
    drawn = [next(stream) for _ in range(_MEASURED)]
    truth = to_pixels(np.stack([scenes.render(scene) for scene in drawn]))
    with torch.no_grad():
        again = torch.cat([made.vae(part).sample.clamp(-1, 1) for part in truth.split(50)])
    psnr = 10 * torch.log10(4 / ((again - truth) ** 2).mean((1, 2, 3)))
    images = [Image.fromarray(array) for array in ((again + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()]
    read = Oracle().measure(images, [scene.caption for scene in drawn])["all_correct"]
    parts = {name: getattr(made, name) for name in _PARTS if hasattr(made, name)}
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return model_card(
        model=f"{type(made).__name__} of {', '.join(f'{name} {size / 1e6:.2f} M' for name, size in sizes.items())}",
        parameters=sum(sizes.values()),
        trained_on=f"{SCENES} scenes, captions with colours swapped ({scenes.SWAP:.0%}) or one dropped "
        f"({scenes.DROP:.0%}); never pairs {sorted(scenes.HELD_OUT_PAIRS)} nor held-out combinations",
        steps=steps,
        minutes=f"unet about {minutes:.0f}",
        quality={
            "vae": f"PSNR {psnr.mean():.1f} dB on held-out scenes (n = {_MEASURED})",
            "oracle after the vae": f"{np.mean(read):.1%} of held-out scenes all correct (n = {_MEASURED})",
            "images": "see docs/results.md",
        },
    )
