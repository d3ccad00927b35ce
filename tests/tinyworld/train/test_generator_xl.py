"""The generator of the shape of Stable Diffusion XL before it is trained: all of it is wired as its pipeline is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel

from realign_cli.models.diffusion.stable_diffusion_xl import StableDiffusionXL
from realign_cli.roles import Request
from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.train import generator_xl as xl
from realign_cli.tinyworld.train import text
from realign_cli.tinyworld.train.generator import denoising_loss
from realign_cli.tinyworld.train.publish import WEIGHTS


def test_it_is_told_in_training_what_its_pipeline_tells_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "generator" / "vae", dtype=torch.float32)
    first = CLIPTextModel.from_pretrained(WEIGHTS / "generator" / "text_encoder", dtype=torch.float32)
    second, unet = xl.second_encoder(), xl.build()
    reader = xl._PooledReader(second, 96, 64)
    reader.loss(["a red circle", "a blue ring above a green cross"], text.tokenizer()).backward()
    learnt = {name for name, weight in second.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert {"text_projection.weight"} < learnt

    stream = scenes.scenes(21)
    drawn = [next(stream) for _ in range(12)]
    plain = torch.zeros(12, 4, 16, 16, dtype=torch.float16)
    latents, sizes = xl.with_blurred(vae, drawn, plain)
    assert [bool(row.any()) for row in latents] == [True, *[False] * 9, True, False]
    assert sizes[[0, 1, 10, 11]].tolist() == [[32, 32], [64, 64], [32, 32], [64, 64]] and not plain.any()
    told = xl.Told(first, second, sizes)
    loss = denoising_loss(unet, drawn, latents, told)
    assert loss(3, 0).item() == loss(3, 0).item() != loss(4, 0).item()
    loss(3, 0).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in unet.parameters())

    xl.pipeline(unet, vae, first, second).save_pretrained(tmp_path)
    parts = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert parts / 2 < 15e6  # in float16
    made = StableDiffusionXL(str(tmp_path), device="cpu", steps=2, guidance=3.0, size=64, model_batch_size=1)
    captions = ["a red circle", ""]
    ids = text.tokenizer()(captions, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        own = told(ids, np.array([1, 1]))
    theirs = made.embed(captions).arguments
    torch.testing.assert_close(own, theirs)
    (image,) = made.generate([Request("a red circle", 1)])
    assert image.size == (64, 64)
