"""The embedded generator made trainable."""

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


def at(trainable: TrainableStableDiffusion, step: int) -> torch.Tensor:
    return torch.full((2,), trainable.time(step))


def step(trainable: TrainableStableDiffusion) -> None:
    """One step of training towards brighter images."""
    embeddings = trainable.embed(PROMPTS)
    latents = trainable.denoise(trainable.initial_noise([1, 2]), embeddings, 0, 2)
    trainable.decode(trainable.predict_x0(latents, embeddings, at(trainable, 2))).mean().neg().backward()
    with torch.no_grad():
        for weight in trainable.trainable_parameters().values():
            assert weight.grad is not None
            weight -= 0.01 * weight.grad.sign()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_its_steps_are_those_of_the_generator(guidance: float):
    """Advancing to the end and decoding gives the images that the pipeline gives."""
    trainable = opened(0, guidance=guidance)
    images = trainable.generate([Request(prompt, seed) for seed, prompt in enumerate(PROMPTS)])
    latents = trainable.denoise(trainable.initial_noise([0, 1]), trainable.embed(PROMPTS), 0, 4)
    pixels = trainable.decode(latents).detach().permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(pixels - np.stack([np.asarray(image) for image in images])).max() <= 1


def test_guidance_can_be_left_out():
    trainable, plain = opened(0, guidance=3.0), opened(0, guidance=1.0)
    embeddings, noise = trainable.embed(PROMPTS), trainable.initial_noise([0, 1])
    assert torch.equal(trainable.denoise(noise, embeddings, 0, 4, guided=False), plain.denoise(noise, embeddings, 0, 4))
    assert not torch.equal(trainable.denoise(noise, embeddings, 0, 4), plain.denoise(noise, embeddings, 0, 4))


def test_the_last_clean_image_is_the_image():
    """At the last step x_0' is all that is left of the way; before it, it is not."""
    trainable = opened(0)
    embeddings = trainable.embed(PROMPTS)
    before = trainable.denoise(trainable.initial_noise([0, 1]), embeddings, 0, 3)
    after = trainable.denoise(before, embeddings, 3, 4)
    assert (trainable.predict_x0(before, embeddings, at(trainable, 3)) - after).abs().max() < 0.05 * after.abs().max()
    early = trainable.predict_x0(trainable.initial_noise([0, 1]), embeddings, at(trainable, 0))
    assert (early - after).abs().max() > 0.2 * after.abs().max()


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_what_is_trained_and_nothing_else(rank: int, checkpointing: bool):
    trainable = opened(rank, checkpointing=checkpointing)
    embeddings = trainable.embed(PROMPTS)
    latents = trainable.denoise(trainable.initial_noise([0, 1]), embeddings, 0, 2)
    assert not latents.requires_grad and not embeddings.tokens.requires_grad
    trainable.decode(trainable.predict_x0(latents, embeddings, at(trainable, 2))).mean().backward()
    with_gradient = {name for name, w in trainable.unet.named_parameters() if w.grad is not None and w.grad.any()}
    trained = set(trainable.trainable_parameters())
    if rank:  # B starts at zero, so only it has a gradient at first
        assert with_gradient == {name for name in trained if "lora_B" in name}
        assert all("lora" in name for name in trained)
    else:
        assert with_gradient == trained == {name for name, _ in trainable.unet.named_parameters()}


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        trainable = opened(0, checkpointing=checkpointing)
        embeddings = trainable.embed(PROMPTS)
        trainable.decode(
            trainable.predict_x0(trainable.initial_noise([0, 1]), embeddings, at(trainable, 1))
        ).mean().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in trainable.trainable_parameters().values()]))
    torch.testing.assert_close(*gradients)


def test_denoising_loss_depends_on_its_seed_alone():
    trainable = opened(0)
    embeddings, latents = trainable.embed(PROMPTS), torch.randn(2, 4, 16, 16)
    first = trainable.denoising_loss(latents, embeddings, 5)
    assert first.shape == (2,) and (first > 0).all()
    torch.testing.assert_close(trainable.denoising_loss(latents, embeddings, 5), first)
    assert not torch.equal(trainable.denoising_loss(latents, embeddings, 6), first)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_target_is_the_scheduler_s_own(kind: str, tmp_path: Path):
    """The closed form of each, with a the product of the alphas: noise; sqrt(a) noise - sqrt(1 - a) x; x."""
    trainable = predicting(tmp_path / "generator", kind)
    embeddings, x = trainable.embed(PROMPTS), torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    draw = torch.Generator().manual_seed(5)
    t = torch.randint(0, 1000, (2,), generator=draw)
    noise = torch.randn(x.shape, generator=draw)
    a = alphas(trainable)[t][:, None, None, None]
    targets = {
        "epsilon": noise,
        "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * x,
        "sample": x,
    }
    with torch.no_grad():
        predicted = trainable.unet(a.sqrt() * x + (1 - a).sqrt() * noise, t, **embeddings.arguments).sample
        losses = {name: (predicted - target).square().mean((1, 2, 3)) for name, target in targets.items()}
        torch.testing.assert_close(trainable.denoising_loss(x, embeddings, 5), losses[kind])
    assert all((losses[kind] - other).abs().min() > 1e-3 for name, other in losses.items() if name != kind)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_clean_image_follows_from_what_is_predicted(kind: str, tmp_path: Path):
    """x_0' of y at time t: (y - sqrt(1 - a) p) / sqrt(a); sqrt(a) y - sqrt(1 - a) p; p."""
    trainable = predicting(tmp_path / "generator", kind)
    embeddings, y = trainable.embed(PROMPTS), trainable.initial_noise([0, 1])
    t = 751  # the first of 4 steps from 1000, with the offset of Stable Diffusion
    a = alphas(trainable)[t]
    with torch.no_grad():
        p = trainable.unet(y, t, **embeddings.arguments).sample
        expected = {
            "epsilon": (y - (1 - a).sqrt() * p) / a.sqrt(),
            "v_prediction": a.sqrt() * y - (1 - a).sqrt() * p,
            "sample": p,
        }
        torch.testing.assert_close(trainable.predict_x0(y, embeddings, at(trainable, 0)), expected[kind])


def alphas(trainable: TrainableStableDiffusion) -> torch.Tensor:
    """Their products up to each of the 1000 times, from the betas of Stable Diffusion."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, 0)


def test_another_prediction_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="prediction_type is flow_prediction; this program knows epsilon, "):
        predicting(tmp_path / "generator", "flow_prediction")


def test_encode_undoes_decode():
    trainable = opened(0)
    latents = trainable.denoise(trainable.initial_noise([0, 1]), trainable.embed(PROMPTS), 0, 4)
    pixels = trainable.decode(latents).detach()
    assert (trainable.decode(trainable.encode(pixels)) - pixels).abs().mean() < 0.02


def test_a_saved_lora_is_what_diffusers_loads(tmp_path: Path):
    trainable = opened(4)
    requests = [Request(prompt, 3) for prompt in PROMPTS]
    base = trainable.generate(requests)
    step(trainable)
    step(trainable)  # A moves once B has
    trained = trainable.generate(requests)
    assert base != trained
    trainable.save(tmp_path)
    assert trainable.generate(requests) == trained  # the check leaves no trace
    assert [path.name for path in tmp_path.iterdir()] == [LORA]
    assert sum(t.numel() * t.element_size() for t in load_file(tmp_path / LORA).values()) == trainable.saved_bytes()
    again = StableDiffusion(
        GENERATOR, device="cpu", steps=4, guidance=3.0, size=64, model_batch_size=2, lora=str(tmp_path)
    ).generate(requests)
    assert again == trained
    pipeline = StableDiffusionPipeline.from_pretrained(GENERATOR, safety_checker=None, dtype=torch.float32)
    pipeline.load_lora_weights(tmp_path)
    loaded = {name: w for name, w in pipeline.unet.named_parameters() if "lora_B" in name}
    assert len(loaded) == len(trainable.trainable_parameters()) / 2 and all(weight.any() for weight in loaded.values())


def test_a_lora_that_would_load_as_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A library that writes other keys than it reads: the weights would be passed over in silence."""
    trainable = opened(4)
    step(trainable)

    def misnamed(folder: Path, layers: dict[str, torch.Tensor], **_: object) -> None:
        save_file({f"unet.wrong.{name}": t.contiguous() for name, t in layers.items()}, folder / LORA)

    monkeypatch.setattr(type(trainable._pipeline), "save_lora_weights", staticmethod(misnamed))
    with pytest.raises((RealignError, ValueError)):
        trainable.save(tmp_path)


def test_a_full_model_is_a_pipeline(tmp_path: Path):
    trainable = opened(0)
    step(trainable)
    requests = [Request(prompt, 3) for prompt in PROMPTS]
    trainable.save(tmp_path)
    again = StableDiffusion(str(tmp_path), device="cpu", steps=4, guidance=3.0, size=64, model_batch_size=2)
    assert again.generate(requests) == trainable.generate(requests)
