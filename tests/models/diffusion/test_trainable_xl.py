"""Stable Diffusion XL made trainable, at a small random configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft.utils import get_peft_model_state_dict

from realign_cli.errors import UsageError
from realign_cli.models.diffusion.stable_diffusion_xl import StableDiffusionXL
from realign_cli.models.diffusion.trainable import TrainableStableDiffusion
from realign_cli.roles import Request
from realign_cli.training.denoising import denoising_term
from realign_cli.training.examples import Examples

PROMPTS = ["a red circle and a blue square", "a green ring and a pink cross"]
REQUESTS = [Request(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
CUT = torch.tensor([[90, 200, 0, 39], [64, 64, 0, 0]])


def generator(folder: Path, **options: str) -> StableDiffusionXL:
    return StableDiffusionXL(
        str(folder), device="cpu", steps=3, guidance=3.0, size=64, model_batch_size=2, full_precision=True, **options
    )


def opened(folder: Path, rank: int, guidance: float = 3.0) -> TrainableStableDiffusion:
    return TrainableStableDiffusion(
        generator(folder), steps=3, guidance=guidance, rank=rank, checkpointing=True, seed=0
    )


def train(trainable: TrainableStableDiffusion) -> None:
    """Two steps towards brighter images; the first factor of a LoRA moves once the second has."""
    embeddings = trainable.embed(PROMPTS)
    for _ in range(2):
        latents = trainable.denoise(trainable.initial_noise([1, 2]), embeddings, 0, 1)
        times = torch.full((2,), trainable.time(1))
        trainable.decode(trainable.predict_x0(latents, embeddings, times)).mean().neg().backward()
        with torch.no_grad():
            for weight in trainable.trainable_parameters().values():
                assert weight.grad is not None and weight.grad.isfinite().all()
                weight -= 0.02 * weight.grad.sign()
                weight.grad = None


def same(a: list, b: list) -> bool:
    return all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in zip(a, b, strict=True))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_its_steps_are_those_of_the_pipeline(xl_folder: Path, guidance: float) -> None:
    """Also the half that is told of no prompt: nothing but sizes."""
    trainable = opened(xl_folder, 0, guidance)
    trainable._generator._guidance = guidance
    images = trainable.generate(REQUESTS)
    latents = trainable.denoise(trainable.initial_noise([0, 1]), trainable.embed(PROMPTS), 0, 3)
    pixels = trainable.decode(latents).detach().permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(pixels - np.stack([np.asarray(image) for image in images])).max() <= 1


def test_a_saved_lora_is_what_diffusers_loads_tensor_by_tensor(xl_folder: Path, tmp_path: Path) -> None:
    trainable = opened(xl_folder, 4)
    before = trainable.generate(REQUESTS)
    train(trainable)
    trained = trainable.generate(REQUESTS)
    assert not same(before, trained)
    trainable.save(tmp_path)
    assert same(trainable.generate(REQUESTS), trained)  # the check leaves no trace
    pipeline = StableDiffusionXLPipeline.from_pretrained(xl_folder, add_watermarker=False)
    pipeline.load_lora_weights(tmp_path)
    ours = get_peft_model_state_dict(trainable.unet, adapter_name="default")
    theirs = get_peft_model_state_dict(pipeline.unet, adapter_name="default_0")
    layers = 2 * (2 + 2 + 2 * 2)  # of attention, each of two factors for four projections
    assert ours.keys() == theirs.keys() and len(ours) == 8 * layers
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].any() for name in ours)
    assert same(generator(xl_folder, lora=str(tmp_path)).generate(REQUESTS), trained)
    (file,) = tmp_path.iterdir()
    alone = file.rename(tmp_path / "mine.safetensors")
    again = generator(xl_folder, lora=str(alone))
    assert same(again.generate(REQUESTS), trained)
    with pytest.raises(UsageError, match=r"generator\.lora is a LoRA already"):
        TrainableStableDiffusion(again, steps=3, guidance=1.0, rank=4, checkpointing=False, seed=0)


def test_a_full_model_is_a_pipeline(xl_folder: Path, tmp_path: Path) -> None:
    trainable = opened(xl_folder, 0)
    size = trainable.saved_bytes()
    train(trainable)
    trainable.save(tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert size == pytest.approx(written, rel=0.05) and size < written  # beside their headers
    assert same(generator(tmp_path).generate(REQUESTS), trainable.generate(REQUESTS))


def test_the_denoiser_is_told_how_an_image_was_cut(xl_folder: Path) -> None:
    trainable = opened(xl_folder, 0)
    whole, cut = trainable.embed(PROMPTS), trainable.embed(PROMPTS, CUT)
    assert whole.added["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]] * 2
    assert cut.added["time_ids"].tolist() == [[90, 200, 0, 39, 64, 64], [64, 64, 0, 0, 64, 64]]
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(5)
    times, noise = torch.randint(0, 1000, (2,), generator=draw), torch.randn(latents.shape, generator=draw)
    added = {"text_embeds": whole.added["text_embeds"], "time_ids": torch.cat([CUT, torch.full((2, 2), 64)], 1).float()}
    with torch.no_grad():
        noisy = trainable.add_noise(latents, noise, times)
        predicted = trainable.unet(noisy, times, whole.tokens, added_cond_kwargs=added).sample
        expected = (predicted - noise).square().mean((1, 2, 3))
        loss = trainable.denoising_loss(latents, cut, 5)
        torch.testing.assert_close(loss, expected)
        other = trainable.denoising_loss(latents, whole, 5)
    assert loss[0] != other[0] and loss[1] == other[1]


def test_examples_bring_how_they_were_cut(xl_folder: Path) -> None:
    trainable = opened(xl_folder, 0)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def loss(framings: torch.Tensor | None) -> float:
        examples = Examples(latents, PROMPTS, framings=framings)
        with torch.no_grad():
            return denoising_term("pretraining", trainable, examples, 4, np.random.default_rng(0))().value.item()

    assert loss(CUT) != loss(None) == loss(CUT[[1, 1]])


def test_the_autoencoder_that_overflows_is_computed_in_full_precision(xl_folder: Path) -> None:
    trainable = opened(xl_folder, 0)
    vae, latents = trainable._pipeline.vae, trainable.initial_noise([0, 1])
    with torch.no_grad():
        exact, again = trainable.decode(latents), trainable.encode(trainable.decode(latents))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(trainable.decode(latents.bfloat16().float()), trainable.decode(latents.bfloat16()))
            assert torch.equal(trainable.decode(latents), exact) and torch.equal(trainable.encode(exact), again)
            vae.register_to_config(force_upcast=False)  # as of autoencoders that were mended
            assert not torch.equal(trainable.decode(latents), exact)
