"""The embedded generator opened for training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from realign_cli.errors import RealignError, UsageError
from realign_cli.models.diffusion.stable_diffusion import StableDiffusion
from realign_cli.models.diffusion.trainable import TrainableStableDiffusion
from realign_cli.roles import Request
from realign_cli.tinyworld.train.publish import WEIGHTS

GENERATOR = str(WEIGHTS / "generator")
PROMPTS = ["a red circle and a blue square", "a green ring and a pink cross"]
LORA = "pytorch_lora_weights.safetensors"


def opened(
    rank: int, *, steps: int = 4, guidance: float = 3.0, checkpointing: bool = False
) -> TrainableStableDiffusion:
    generator = StableDiffusion(
        GENERATOR, device="cpu", steps=steps, guidance=guidance, size=64, model_batch_size=2, full_precision=True
    )
    return TrainableStableDiffusion(
        generator, steps=steps, guidance=guidance, rank=rank, checkpointing=checkpointing, seed=0
    )


PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def predicting(folder: Path, kind: str) -> TrainableStableDiffusion:
    """The embedded generator, said to predict something else than it does."""
    shutil.copytree(GENERATOR, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": kind}))
    generator = StableDiffusion(
        str(folder), device="cpu", steps=4, guidance=1.0, size=64, model_batch_size=2, full_precision=True
    )
    return TrainableStableDiffusion(generator, steps=4, guidance=1.0, rank=0, checkpointing=False, seed=0)


def step(trainee: TrainableStableDiffusion) -> None:
    """One step of training towards brighter images."""
    embeddings = trainee.embed(PROMPTS)
    latents = trainee.denoise(trainee.initial_noise([1, 2]), embeddings, 0, 2)
    trainee.decode(trainee.predict_x0(latents, embeddings, 2)).mean().neg().backward()
    with torch.no_grad():
        for weight in trainee.trainable_parameters().values():
            assert weight.grad is not None
            weight -= 0.01 * weight.grad.sign()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_its_steps_are_those_of_the_generator(guidance: float):
    """Advancing to the end and decoding gives the images that the pipeline gives."""
    trainee = opened(0, guidance=guidance)
    images = trainee.generate([Request(prompt, seed) for seed, prompt in enumerate(PROMPTS)])
    latents = trainee.denoise(trainee.initial_noise([0, 1]), trainee.embed(PROMPTS), 0, 4)
    pixels = trainee.decode(latents).detach().permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(pixels - np.stack([np.asarray(image) for image in images])).max() <= 1


def test_guidance_can_be_left_out():
    trainee, plain = opened(0, guidance=3.0), opened(0, guidance=1.0)
    embeddings, noise = trainee.embed(PROMPTS), trainee.initial_noise([0, 1])
    assert torch.equal(trainee.denoise(noise, embeddings, 0, 4, guided=False), plain.denoise(noise, embeddings, 0, 4))
    assert not torch.equal(trainee.denoise(noise, embeddings, 0, 4), plain.denoise(noise, embeddings, 0, 4))


def test_the_last_clean_image_is_the_image():
    """At the last step x_0' is all that is left of the way; before it, it is not."""
    trainee = opened(0)
    embeddings = trainee.embed(PROMPTS)
    before = trainee.denoise(trainee.initial_noise([0, 1]), embeddings, 0, 3)
    after = trainee.denoise(before, embeddings, 3, 4)
    assert (trainee.predict_x0(before, embeddings, 3) - after).abs().max() < 0.05 * after.abs().max()
    early = trainee.predict_x0(trainee.initial_noise([0, 1]), embeddings, 0)
    assert (early - after).abs().max() > 0.2 * after.abs().max()


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_what_is_trained_and_nothing_else(rank: int, checkpointing: bool):
    trainee = opened(rank, checkpointing=checkpointing)
    embeddings = trainee.embed(PROMPTS)
    latents = trainee.denoise(trainee.initial_noise([0, 1]), embeddings, 0, 2)
    assert not latents.requires_grad and not embeddings.requires_grad
    trainee.decode(trainee.predict_x0(latents, embeddings, 2)).mean().backward()
    with_gradient = {name for name, w in trainee.unet.named_parameters() if w.grad is not None and w.grad.any()}
    trained = set(trainee.trainable_parameters())
    if rank:  # B starts at zero, so only it has a gradient at first
        assert with_gradient == {name for name in trained if "lora_B" in name}
        assert all("lora" in name for name in trained)
    else:
        assert with_gradient == trained == {name for name, _ in trainee.unet.named_parameters()}


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        trainee = opened(0, checkpointing=checkpointing)
        embeddings = trainee.embed(PROMPTS)
        trainee.decode(trainee.predict_x0(trainee.initial_noise([0, 1]), embeddings, 1)).mean().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in trainee.trainable_parameters().values()]))
    torch.testing.assert_close(*gradients)


def test_denoising_loss_depends_on_its_seed_alone():
    trainee = opened(0)
    embeddings, latents = trainee.embed(PROMPTS), torch.randn(2, 4, 16, 16)
    first = trainee.denoising_loss(latents, embeddings, 5)
    assert first.shape == (2,) and (first > 0).all()
    torch.testing.assert_close(trainee.denoising_loss(latents, embeddings, 5), first)
    assert not torch.equal(trainee.denoising_loss(latents, embeddings, 6), first)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_target_is_the_scheduler_s_own(kind: str, tmp_path: Path):
    """The closed form of each, with a the product of the alphas: noise; sqrt(a) noise - sqrt(1 - a) x; x."""
    trainee = predicting(tmp_path / "generator", kind)
    embeddings, x = trainee.embed(PROMPTS), torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    draw = torch.Generator().manual_seed(5)
    t = torch.randint(0, 1000, (2,), generator=draw)
    noise = torch.randn(x.shape, generator=draw)
    a = alphas(trainee)[t][:, None, None, None]
    targets = {
        "epsilon": noise,
        "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * x,
        "sample": x,
    }
    with torch.no_grad():
        predicted = trainee.unet(a.sqrt() * x + (1 - a).sqrt() * noise, t, embeddings).sample
        losses = {name: (predicted - target).square().mean((1, 2, 3)) for name, target in targets.items()}
        torch.testing.assert_close(trainee.denoising_loss(x, embeddings, 5), losses[kind])
    assert all((losses[kind] - other).abs().min() > 1e-3 for name, other in losses.items() if name != kind)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_clean_image_follows_from_what_is_predicted(kind: str, tmp_path: Path):
    """x_0' of y at time t: (y - sqrt(1 - a) p) / sqrt(a); sqrt(a) y - sqrt(1 - a) p; p."""
    trainee = predicting(tmp_path / "generator", kind)
    embeddings, y = trainee.embed(PROMPTS), trainee.initial_noise([0, 1])
    t = 751  # the first of 4 steps from 1000, with the offset of Stable Diffusion
    a = alphas(trainee)[t]
    with torch.no_grad():
        p = trainee.unet(y, t, embeddings).sample
        expected = {
            "epsilon": (y - (1 - a).sqrt() * p) / a.sqrt(),
            "v_prediction": a.sqrt() * y - (1 - a).sqrt() * p,
            "sample": p,
        }
        torch.testing.assert_close(trainee.predict_x0(y, embeddings, 0), expected[kind])


def alphas(trainee: TrainableStableDiffusion) -> torch.Tensor:
    """Their products up to each of the 1000 times, from the betas of Stable Diffusion."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, 0)


def test_another_prediction_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="prediction_type is flow_prediction; this program knows epsilon, "):
        predicting(tmp_path / "generator", "flow_prediction")


def test_encode_undoes_decode():
    trainee = opened(0)
    latents = trainee.denoise(trainee.initial_noise([0, 1]), trainee.embed(PROMPTS), 0, 4)
    pixels = trainee.decode(latents).detach()
    assert (trainee.decode(trainee.encode(pixels)) - pixels).abs().mean() < 0.02


def test_a_saved_lora_is_what_diffusers_loads(tmp_path: Path):
    trainee = opened(4)
    requests = [Request(prompt, 3) for prompt in PROMPTS]
    base = trainee.generate(requests)
    step(trainee)
    step(trainee)  # A moves once B has
    trained = trainee.generate(requests)
    assert base != trained
    trainee.save(tmp_path)
    assert trainee.generate(requests) == trained  # the check leaves no trace
    assert [path.name for path in tmp_path.iterdir()] == [LORA]
    assert sum(t.numel() * t.element_size() for t in load_file(tmp_path / LORA).values()) == trainee.saved_bytes()
    again = StableDiffusion(
        GENERATOR, device="cpu", steps=4, guidance=3.0, size=64, model_batch_size=2, lora=str(tmp_path)
    ).generate(requests)
    assert again == trained
    pipeline = StableDiffusionPipeline.from_pretrained(GENERATOR, safety_checker=None, dtype=torch.float32)
    pipeline.load_lora_weights(tmp_path)
    loaded = {name: w for name, w in pipeline.unet.named_parameters() if "lora_B" in name}
    assert len(loaded) == len(trainee.trainable_parameters()) / 2 and all(weight.any() for weight in loaded.values())


def test_a_lora_that_would_load_as_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A library that writes other keys than it reads: the weights would be passed over in silence."""
    trainee = opened(4)
    step(trainee)

    def misnamed(folder: Path, layers: dict[str, torch.Tensor], **_: object) -> None:
        save_file({f"unet.wrong.{name}": t.contiguous() for name, t in layers.items()}, folder / LORA)

    monkeypatch.setattr(type(trainee._pipeline), "save_lora_weights", staticmethod(misnamed))
    with pytest.raises((RealignError, ValueError)):
        trainee.save(tmp_path)


def test_a_full_model_is_a_pipeline(tmp_path: Path):
    trainee = opened(0)
    step(trainee)
    requests = [Request(prompt, 3) for prompt in PROMPTS]
    trainee.save(tmp_path)
    again = StableDiffusion(str(tmp_path), device="cpu", steps=4, guidance=3.0, size=64, model_batch_size=2)
    assert again.generate(requests) == trainee.generate(requests)
