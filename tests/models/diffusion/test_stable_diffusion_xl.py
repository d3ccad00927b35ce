"""Stable Diffusion XL at a small random configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from realign_cli import presets
from realign_cli.errors import UsageError
from realign_cli.models.diffusion.stable_diffusion_xl import StableDiffusionXL
from realign_cli.models.language.rule_parser import RuleParser
from realign_cli.registry import Models
from realign_cli.roles import Region, Request
from realign_cli.settings import PhraseControl, Structure, SynGen

if TYPE_CHECKING:
    from PIL.Image import Image

REQUESTS = [Request("a red circle", 1), Request("a blue ring and a green cross", 2), Request("a red circle", 3)]


@pytest.fixture
def generator(xl_folder: Path) -> StableDiffusionXL:
    return StableDiffusionXL(str(xl_folder), device="cpu", steps=3, guidance=4.0, size=64, model_batch_size=2)


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


def mask(columns: slice) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[8:48, columns] = True
    return mask


REGIONS = (Region("a blue ring", 2.0, mask(slice(0, 28))), Region("a green cross", 0.5, mask(slice(36, 64))))
TO_REFINE = [REQUESTS[0], replace(REQUESTS[1], regions=REGIONS)]
CONTROLS = {
    "modulation": Models(presets.load("sdxl", ["modulation.power=1"])).region_control,
    "regional": Models(presets.load("sdxl", ["refine.method=regional"])).region_control,
    "dense": Models(presets.load("sdxl", ["refine.method=dense", "dense.power=1"])).region_control,
}


def same(a: list[Image], b: list[Image]) -> list[bool]:
    return [np.array_equal(np.asarray(one), np.asarray(other)) for one, other in zip(a, b, strict=True)]


@pytest.mark.parametrize("method", CONTROLS)
def test_regions_are_minded_and_in_any_batch_alike(generator: StableDiffusionXL, method: str) -> None:
    refined = generator.generate(TO_REFINE, CONTROLS[method])
    assert same(refined, generator.generate(TO_REFINE)) == [True, False]
    assert same(refined, [generator.generate([request], CONTROLS[method])[0] for request in TO_REFINE]) == [True, True]


@pytest.mark.parametrize("method", CONTROLS)
def test_of_no_strength_it_is_plain_to_the_bit(generator: StableDiffusionXL, method: str) -> None:
    off = {"step_fraction": 0.0} if method == "regional" else {"cross_weight": 0.0, "self_weight": 0.0}
    spliced = {} if method == "regional" else {"splice_phrases": False}
    none = replace(CONTROLS[method], **off, **spliced)
    assert same(generator.generate(TO_REFINE, none), generator.generate(TO_REFINE)) == [True, True]


def test_a_phrase_is_spliced_in_the_embeddings_of_both_encoders(generator: StableDiffusionXL) -> None:
    seen: list[dict[str, Any]] = []
    hook = generator.pipeline.unet.register_forward_pre_hook(lambda *given: seen.append(given[2]), with_kwargs=True)
    generator.generate(TO_REFINE[1:], CONTROLS["modulation"])
    hook.remove()
    told, added = seen[0]["encoder_hidden_states"][-2], seen[0]["added_cond_kwargs"]
    prompt, alone = generator.embed([REQUESTS[1].prompt]), generator.embed([one.phrase for one in REGIONS]).tokens
    expected = prompt.tokens[0].clone()
    expected[1:4], expected[5:8] = alone[0, 1:4], alone[1, 1:4]  # <bos> a blue ring and a green cross <eos>
    assert torch.equal(told, expected)
    changed = (told != prompt.tokens[0]).any(0)
    assert changed[:32].any() and changed[32:].any()  # where the first encoder is, and the second
    assert torch.equal(added["text_embeds"][-2], prompt.added["text_embeds"][0])
    assert added["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]] * 4


@pytest.mark.parametrize("control", [Structure(form="default"), SynGen(10.0, 0.0, 0.5, 1)])
def test_phrases_are_minded(generator: StableDiffusionXL, control: PhraseControl) -> None:
    (phrases,) = RuleParser().parse([REQUESTS[1].prompt])
    asked = [REQUESTS[0], replace(REQUESTS[1], phrases=phrases)]
    assert same(generator.generate(asked, control), generator.generate(asked)) == [True, False]


def test_images_need_not_be_squares(xl_folder: Path) -> None:
    """Each refined in the size in which it is drawn, from noise of that shape."""
    wide = StableDiffusionXL(str(xl_folder), device="cpu", steps=3, guidance=4.0, size="96x64", model_batch_size=2)
    plain = wide.generate(TO_REFINE)
    assert [image.size for image in plain] == [(96, 64)] * 2
    stretched = tuple(replace(one, mask=np.repeat(one.mask, 3, 1)[:, ::2]) for one in REGIONS)
    asked = [REQUESTS[0], replace(REQUESTS[1], regions=stretched)]
    for control in CONTROLS.values():
        assert same(wide.generate(asked, control), plain) == [True, False]


def test_another_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a StableDiffusionXLPipeline"):
        StableDiffusionXL(str(tmp_path), device="cpu", steps=3, guidance=4.0, size=64)
