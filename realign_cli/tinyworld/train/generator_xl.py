"""A `StableDiffusionXLPipeline` of the tiny world: two text encoders, a pooled embedding, sizes, and its U-Net.

Autoencoder and first text encoder are those of `generator`; the second one is trained here, as `text` trains the first.
As in Stable Diffusion XL the U-Net reads the states before their last layers and not at the latents' own size, and is
told of the size that an image had: one scene in ten is blurred, as an image of half the size is (Podell et al., 2023,
section 2.2). Nothing is cut, and the U-Net learns no other place of a cut than the corner.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.train import text
from realign_cli.tinyworld.train.fit import fit
from realign_cli.tinyworld.train.generator import denoising_loss, describe, scenes_and_latents, scheduler
from realign_cli.tinyworld.train.publish import WEIGHTS, publish
from realign_cli.tinyworld.train.vae import to_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

CYCLES = (4800, 12_000)  # steps when the learning rate is down; between, it restarts (Loshchilov and Hutter, 2017)
_FIRST, _SECOND, _POOLED = 128, 96, 64  # widths
_BLURRED = 10  # one in so many scenes
_SIDE = 64


def build() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 112),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 4, 4),
        cross_attention_dim=_FIRST + _SECOND,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=6 * 16 + _POOLED,
        norm_num_groups=8,
    )


def second_encoder() -> CLIPTextModelWithProjection:
    words = text.tokenizer()
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=_SECOND,
            intermediate_size=4 * _SECOND,
            num_hidden_layers=3,
            num_attention_heads=4,
            projection_dim=_POOLED,
            max_position_embeddings=text.LENGTH,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


class _PooledReader(text.Reader):
    """Reads what the U-Net will: the states before the last layer, and the pooled embedding."""

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        found = self.text(ids, output_hidden_states=True)
        return found.hidden_states[-2], found.text_embeds


def blurred(scene: scenes.Scene) -> NDArray[np.uint8]:
    """A scene as it looks when it comes from an image of half its size."""
    small = Image.fromarray(scenes.render(scene)).resize((_SIDE // 2, _SIDE // 2), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))


def with_blurred(vae: AutoencoderKL, drawn: list[scenes.Scene], latents: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of which one in ten is of a blurred scene, and the height and width that each image had (N, 2)."""
    latents, sizes = latents.clone(), torch.full((len(drawn), 2), float(_SIDE))
    sizes[::_BLURRED] = _SIDE / 2
    for i in range(0, len(drawn), 100 * _BLURRED):
        some = slice(i, i + 100 * _BLURRED, _BLURRED)
        with torch.no_grad():
            pixels = to_pixels(np.stack([blurred(scene) for scene in drawn[some]]))
            latents[some] = vae.encode(pixels).latent_dist.mean.to(latents)
    return latents, sizes


class Told:
    """What the U-Net is told of captions and scenes, as the pipeline tells it."""

    def __init__(self, first: CLIPTextModel, second: CLIPTextModelWithProjection, sizes: Tensor) -> None:
        self._first, self._second, self._sizes = first, second, sizes

    def __call__(self, ids: Tensor, chosen: NDArray[np.int64]) -> dict[str, Tensor | dict[str, Tensor]]:
        first, second = (encoder(ids, output_hidden_states=True) for encoder in (self._first, self._second))
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        sizes = self._sizes[torch.from_numpy(chosen)]
        whole = torch.tensor([[0.0, 0.0, _SIDE, _SIDE]]).expand(len(sizes), -1)
        added = {"text_embeds": second.text_embeds, "time_ids": torch.cat([sizes, whole], 1)}
        return {"encoder_hidden_states": states, "added_cond_kwargs": added}


def main(work: Path) -> None:
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    packaged = WEIGHTS / "generator"
    vae = AutoencoderKL.from_pretrained(packaged / "vae", dtype=torch.float32)
    first = CLIPTextModel.from_pretrained(packaged / "text_encoder", dtype=torch.float32).requires_grad_(False)
    second = second_encoder()
    text.teach(_PooledReader(second, _SECOND, _POOLED), work / "text", last=False)
    second.requires_grad_(False)
    unet = build()
    drawn, latents = scenes_and_latents(vae, work.parent / "latents.safetensors")
    latents, sizes = with_blurred(vae, drawn, latents)
    loss = denoising_loss(unet, drawn, latents, Told(first, second, sizes))
    for steps in CYCLES:
        minutes = fit(
            unet,
            loss,
            steps=steps,
            learning_rate=1.2e-3,
            work=work,
            ema=0.998,
            decay_share=0.5,
            last=steps == CYCLES[-1],
        )
    made = pipeline(unet, vae, first, second)
    card = describe(made, f"unet {CYCLES[-1]}; the vae and the first text encoder are those of generator", minutes)
    made.to(torch.float16).save_pretrained(work / "model")
    publish("generator_xl", work / "model", card)


def pipeline(
    unet: UNet2DConditionModel, vae: AutoencoderKL, first: CLIPTextModel, second: CLIPTextModelWithProjection
) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=text.tokenizer(),
        tokenizer_2=text.tokenizer(),
        unet=unet,
        scheduler=scheduler(),
        force_zeros_for_empty_prompt=False,  # it is the caption "" that is learnt
        add_watermarker=False,
    )
