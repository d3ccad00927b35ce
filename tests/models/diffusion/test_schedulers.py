"""Other samplers than DDIM, on the random pipelines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from realign_cli import presets
from realign_cli.errors import UsageError
from realign_cli.models.diffusion.schedulers import scheduler
from realign_cli.models.diffusion.stable_diffusion import StableDiffusion
from realign_cli.registry import Models
from realign_cli.roles import Region, Request

LEFT = np.zeros((64, 64), bool)
LEFT[8:40, :24] = True
REQUESTS = [Request("a red circle", 1, (Region("a red circle", 2.0, LEFT),)), Request("a blue ring", 2)]


@pytest.fixture(scope="module")
def by_ddim(sd_folder: Path) -> np.ndarray:
    return np.asarray(opened(sd_folder, "ddim").generate(REQUESTS)[0])


def opened(folder: Path, name: str) -> StableDiffusion:
    return StableDiffusion(
        str(folder), device="cpu", steps=3, guidance=3.0, size=64, model_batch_size=2, scheduler=name
    )


@pytest.mark.parametrize("name", ["euler", "dpm++2m", "dpm++2m-karras", "unipc"])
def test_an_image_is_decided_by_its_request_alone(sd_folder: Path, by_ddim: np.ndarray, name: str) -> None:
    generator = opened(sd_folder, name)
    control = Models(presets.load("tiny", ["refine.method=modulation"])).region_control
    drawn, refined = ([np.asarray(i) for i in generator.generate(REQUESTS, how)] for how in (None, control))
    assert np.array_equal(np.asarray(generator.generate(REQUESTS[1:])[0]), drawn[1])
    assert not np.array_equal(refined[0], drawn[0]) and np.array_equal(refined[1], drawn[1])
    assert not np.array_equal(drawn[0], by_ddim)


def test_euler_is_the_stock_pipeline_s(sd_folder: Path) -> None:
    generator = opened(sd_folder, "euler")
    drawn = generator.generate(REQUESTS)
    pipeline = generator.pipeline
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    noise = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)])
    prompts = [request.prompt for request in REQUESTS]
    stock = pipeline(prompts, latents=noise, num_inference_steps=3, guidance_scale=3.0, height=64, width=64).images
    for ours, theirs in zip(drawn, stock, strict=True):
        assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1


def test_moving_latents_goes_with_ddim_alone(sd_folder: Path) -> None:
    control = Models(presets.load("tiny", ["generate.method=attend"])).phrase_control
    with pytest.raises(UsageError, match=r"attend moves latents between steps of ddim, .*generator\.scheduler=ddim"):
        opened(sd_folder, "unipc").generate(REQUESTS, control)


@pytest.mark.parametrize(
    ("name", "predicted", "complaint"),
    [
        ("euler-a", "epsilon", "euler-a adds noise at every step, .* choose ddim, euler, "),
        ("plms", "epsilon", r"generator\.scheduler plms: there are ddim, euler, dpm\+\+2m, dpm\+\+2m-karras, unipc"),
        ("euler", "sample", "with the prediction_type sample, choose ddim"),
    ],
)
def test_what_does_not_go_is_refused(name: str, predicted: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        scheduler(name, DDIMScheduler(prediction_type=predicted))
