"""Stable Diffusion XL at a small random configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from realign_cli import presets
from realign_cli.errors import UsageError
from realign_cli.models.diffusion.stable_diffusion_xl import StableDiffusionXL
from realign_cli.models.diffusion.trainable import TrainableStableDiffusion
from realign_cli.registry import Models
from realign_cli.roles import Request
from realign_cli.settings import Structure
from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.train.tokenizers import clip_tokenizer

LENGTH = 16
REQUESTS = [Request("a red circle", 1), Request("a blue ring and a green cross", 2), Request("a red circle", 3)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(scenes.words(), LENGTH)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,  # of both text encoders
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,  # sizes and the pooled embedding
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=8,
        sample_size=64,
        force_upcast=True,
    )
    folder = tmp_path_factory.mktemp("xl")
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def generator(checkpoint: Path) -> StableDiffusionXL:
    return StableDiffusionXL(str(checkpoint), device="cpu", steps=3, guidance=4.0, size=64, model_batch_size=2)


def test_it_is_the_stock_pipeline_and_minds_no_batch(generator: StableDiffusionXL) -> None:
    together = generator.generate(REQUESTS)
    alone = [generator.generate([request])[0] for request in REQUESTS]
    for a, b in zip(together, alone, strict=True):
        assert a.size == (64, 64) and np.array_equal(np.asarray(a), np.asarray(b))
    noise = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)])
    stock = generator.pipeline(
        prompt=[request.prompt for request in REQUESTS[:2]],
        latents=noise,
        num_inference_steps=3,
        guidance_scale=4.0,
        height=64,
        width=64,
    ).images
    for a, b in zip(together, stock, strict=False):
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1
    assert not np.array_equal(np.asarray(together[0]), np.asarray(together[2]))  # another noise
    assert generator.pipeline.scheduler.config.clip_sample is False


def test_it_says_that_it_only_generates(generator: StableDiffusionXL) -> None:
    controls = [Models(presets.load("tiny")).region_control, Structure(form="default")]
    for control in controls:
        with pytest.raises(UsageError, match="for plain 'realign generate' alone; take a preset of Stable Diffusion 1"):
            generator.generate(REQUESTS, control)
    with pytest.raises(UsageError, match="a StableDiffusionXLPipeline is not trained here; train a preset"):
        TrainableStableDiffusion(generator, steps=3, guidance=1.0, rank=2, checkpointing=False, seed=0)


def test_another_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a StableDiffusionXLPipeline"):
        StableDiffusionXL(str(tmp_path), device="cpu", steps=3, guidance=4.0, size=64)
