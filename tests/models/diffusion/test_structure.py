"""StructureDiffusion in a random UNet of the shape of Stable Diffusion 1.x, against attention summed over phrases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from realign_cli.models.diffusion.structure import Phrases, structured

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

WIDTH, TOKENS, SIDE = 16, 12, 16
FORMS = ["default", "conjunction"]


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    latents = torch.randn(batch, 4, SIDE, SIDE, generator=generator)
    return latents, torch.randn(batch, TOKENS, WIDTH, generator=generator)


def alone(seed: int) -> Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


TWO: Phrases = [(alone(20), slice(1, 4)), (alone(21), slice(5, 8))]
ONE: Phrases = [(alone(22), slice(2, 4))]


@torch.no_grad()
def predict(unet: UNet2DConditionModel, batch: tuple[Tensor, Tensor]) -> Tensor:
    return unet(batch[0], 501, encoder_hidden_states=batch[1]).sample


class Explicit:
    """O = 1/(k + 1) sum_i A(Q, K_i, V_i) for each row, phrase by phrase, as the paper's section 3.2 has it."""

    def __init__(self, rows: list[Phrases], form: str) -> None:
        self.rows, self.form = rows, form

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        out = []
        for row, states in enumerate(hidden_states):
            phrases = self.rows[row] if encoder_hidden_states is not None else []
            versions, joined = [context[row]], context[row].clone()
            for phrase, place in phrases:
                version = context[row].clone()
                version[place] = joined[place] = phrase[1 : 1 + place.stop - place.start]
                versions.append(version)
            one = []
            for version in versions:
                key, value = (context[row], version) if self.form == "default" else (version, joined)
                q, k, v = attn.to_q(states), attn.to_k(key), attn.to_v(value)
                q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(0, 1) for x in (q, k, v))
                one.append((q @ k.mT * attn.scale).softmax(-1) @ v)
            out.append((sum(one) / len(one)).transpose(0, 1).flatten(1))
        return attn.to_out[0](torch.stack(out))


@pytest.mark.parametrize("form", FORMS)
def test_equals_the_sum_over_phrases_written_out(unet: UNet2DConditionModel, form: str) -> None:
    batch = inputs(6)
    with structured(unet, batch[1][3:], [TWO, [], ONE], form):
        actual = predict(unet, batch)
    stock = unet.attn_processors
    unet.set_attn_processor(Explicit([[], [], [], TWO, [], ONE], form))
    expected = predict(unet, batch)
    unet.set_attn_processor(stock)
    assert (actual - predict(unet, batch)).abs().max() > 1e-3
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_changes_the_conditional_half_of_images_with_phrases_only(unet: UNet2DConditionModel, form: str) -> None:
    batch = inputs(6)
    plain = predict(unet, batch)
    with structured(unet, batch[1][3:], [[], ONE, TWO], form):
        changed = predict(unet, batch)
    rows = zip(changed, plain, strict=True)
    same = [torch.equal(a, b) if form == "default" else torch.allclose(a, b, atol=1e-5) for a, b in rows]
    assert same == [True, True, True, True, False, False]


@pytest.mark.parametrize("form", FORMS)
def test_without_phrases_nothing_is_installed(unet: UNet2DConditionModel, form: str) -> None:
    batch = inputs(2)
    plain, before = predict(unet, batch), unet.attn_processors
    with structured(unet, batch[1][1:], [[]], form):
        assert unet.attn_processors == before and not any(module._forward_pre_hooks for module in unet.modules())
        assert torch.equal(predict(unet, batch), plain)


@pytest.mark.parametrize("form", FORMS)
def test_an_image_does_not_depend_on_the_phrases_beside_it(unet: UNet2DConditionModel, form: str) -> None:
    batch = inputs(6)
    results = []
    for beside in ([[], TWO, []], [ONE, TWO, ONE]):
        with structured(unet, batch[1][3:], beside, form):
            results.append(predict(unet, batch)[4])
    assert torch.equal(*results)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_leaves_the_unet_as_it_was(unet: UNet2DConditionModel, form: str, error: type[BaseException] | None) -> None:
    before = unet.attn_processors
    try:
        with structured(unet, inputs(1)[1], [ONE], form):
            hooked = [name for name, module in unet.named_modules() if name and module._forward_pre_hooks]
            assert len(hooked) == (16 if form == "default" else 0)
            assert (unet.attn_processors == before) == (form == "default")
            if error:
                raise error
    except (ValueError, KeyboardInterrupt) as raised:
        assert type(raised) is error
    assert unet.attn_processors == before
    assert not any(module._forward_pre_hooks for module in unet.modules())
