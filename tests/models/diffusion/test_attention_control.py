from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import Transformer2DModel, UNet2DConditionModel
from torch import Tensor

from realign_cli.models.diffusion.attention_control import Layout, cells_at, modulated
from realign_cli.models.diffusion.regional import RegionTexts, regional
from realign_cli.settings import Dense, Modulation, Regional

WIDTH, TOKENS, SIDE = 32, 12, 16
TIMESTEPS = torch.arange(951, 0, -50)  # 20 steps, of which the first 6 (down to 701) are modulated
FIRST, LAST = TIMESTEPS[0], TIMESTEPS[-1]
DEFAULT = Modulation(
    cross_weight=1.0,
    self_weight=0.3,
    power=5,
    step_fraction=0.3,
    clamp_lambda=True,
    splice_phrases=True,
    use_likelihood=True,
    only_phrase_tokens=False,
)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()
    with torch.no_grad():  # sharp attention: random weights would attend evenly, and there is no headroom in that
        for name, weight in unet.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                weight *= 4
    return unet


def layout(*boxes: tuple[slice, slice], likelihoods: tuple[float, ...] = (2.0, 0.5)) -> Layout:
    """Objects in `boxes` of a 64x64 image; the first one's phrase is tokens 1 to 3, the second one's 5 to 7."""
    masks = torch.zeros(len(boxes), 64, 64, dtype=torch.bool)
    tokens = torch.zeros(len(boxes), TOKENS, dtype=torch.bool)
    for i, box in enumerate(boxes):
        masks[i][box] = True
        tokens[i, 4 * i + 1 : 4 * i + 4] = True
    return Layout(masks, tokens, torch.tensor(likelihoods[: len(boxes)]))


ONE = layout((slice(0, 32), slice(0, 32)))
TWO = layout((slice(0, 40), slice(0, 32)), (slice(24, 64), slice(16, 48)))  # overlapping
EVERYWHERE = layout((slice(None), slice(None)))


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    latents = torch.randn(batch, 4, SIDE, SIDE, generator=generator)
    return latents, torch.randn(batch, TOKENS, WIDTH, generator=generator)


@torch.no_grad()
def predict(unet: UNet2DConditionModel, batch: tuple[Tensor, Tensor], timestep: Tensor = FIRST) -> Tensor:
    return unet(batch[0], timestep, encoder_hidden_states=batch[1]).sample


class Explicit:
    """Eq. 7-9 written out plainly for one layer, query by query, as an oracle."""

    def __init__(self, rows: list[Layout | None], modulation: Modulation, timestep: int) -> None:
        self.rows, self.modulation, self.lambda_ = rows, modulation, (timestep / 1000) ** modulation.power

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        s = q @ k.mT * attn.scale
        for row, where in enumerate(self.rows):
            if where is not None:
                s[row] = self.modulate(s[row], where, cross=encoder_hidden_states is not None)
        out = (s.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return attn.to_out[0](out)

    def modulate(self, s: Tensor, where: Layout, *, cross: bool) -> Tensor:
        cell = round((where.masks[0].numel() / s.shape[1]) ** 0.5)
        height, width = (side // cell for side in where.masks.shape[1:])
        masks = where.masks.float().unflatten(1, (height, cell)).unflatten(3, (width, cell)).mean((2, 4)) >= 0.5
        masks = masks.flatten(1)
        strength = self.lambda_ * (self.modulation.cross_weight if cross else self.modulation.self_weight)
        score = torch.ones(s.shape[2])
        if cross:
            for j in range(len(score)):
                speakers = where.likelihoods[where.tokens[:, j]]
                if len(speakers):
                    score[j] = speakers.max() if self.modulation.use_likelihood else 1.0
                elif self.modulation.only_phrase_tokens:
                    score[j] = 0.0
        out = s.clone()
        for i in range(s.shape[1]):
            holding = masks[:, i]
            if holding.any():
                union = masks[holding].any(0)
                match = where.tokens[holding].any(0) if cross else union
                weight = strength * score * (1 - union.float().mean())
                weight = weight.clamp(max=1) if self.modulation.clamp_lambda else weight
                row = s[:, i]
                goal = torch.where(match, row.amax(-1, keepdim=True), row.amin(-1, keepdim=True))
                out[:, i] = row + weight * (goal - row)
        return out


@pytest.mark.parametrize(
    "modulation",
    [
        DEFAULT,
        replace(DEFAULT, cross_weight=2.0, self_weight=0.6, power=1, clamp_lambda=False, use_likelihood=False),
        replace(DEFAULT, only_phrase_tokens=True),
    ],
    ids=["default", "strong unclamped", "phrases only"],
)
def test_equals_the_equations_written_out(unet: UNet2DConditionModel, modulation: Modulation):
    batch = inputs(6)
    layouts = [TWO, None, ONE]
    with modulated(unet, layouts, modulation, TIMESTEPS):
        actual = predict(unet, batch)
    stock = unet.attn_processors
    unet.set_attn_processor(Explicit([None, None, None, *layouts], modulation, int(FIRST)))
    expected = predict(unet, batch)
    unet.set_attn_processor(stock)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)


@pytest.fixture(scope="module")
def xl() -> UNet2DConditionModel:
    """Of the shape of Stable Diffusion XL: none of the layers at the latents' own size, several in a block."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3),
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=WIDTH,
        use_linear_projection=True,
        norm_num_groups=8,
    ).eval()
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                weight *= 4
    return unet


TALL = Layout(torch.cat([TWO.masks, TWO.masks.flip(1, 2)[:, :32]], 1), TWO.tokens, TWO.likelihoods)  # 96 x 64 pixels


def tall_inputs() -> tuple[Tensor, Tensor]:
    latents, embeddings = inputs(2)
    return torch.cat([latents, latents[:, :, :8].flip(3)], 2), embeddings  # 24 x 16


def test_equals_the_equations_on_the_layers_of_xl_and_where_the_image_is_no_square(xl: UNet2DConditionModel):
    batch = tall_inputs()
    with modulated(xl, [TALL], DEFAULT, TIMESTEPS):
        actual = predict(xl, batch)
    assert len(xl.attn_processors) == 2 * (2 + 3 + 3 + 2 * 3 + 2 * 2)
    stock = xl.attn_processors
    xl.set_attn_processor(Explicit([None, TALL], DEFAULT, int(FIRST)))
    expected = predict(xl, batch)
    xl.set_attn_processor(stock)
    assert (actual - predict(xl, batch)).abs().amax((1, 2, 3))[1] > 1e-3
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)


def around(unet: UNet2DConditionModel, control: str, masks: Tensor):
    if control == "modulation":
        return modulated(unet, [Layout(masks, TWO.tokens, TWO.likelihoods)], DEFAULT, TIMESTEPS)
    texts = RegionTexts(masks, inputs(2)[1], torch.eye(TOKENS).expand(2, -1, -1))
    return regional(unet, [texts], Regional(step_fraction=0.3, dilation=0.1), TIMESTEPS)


@pytest.mark.parametrize("control", ["modulation", "regional"])
def test_tall_is_wide_laid_on_its_side(xl: UNet2DConditionModel, control: str):
    """A network whose filters are laid on their side does with a wide image what it did with a tall one."""
    latents, embeddings = tall_inputs()
    with around(xl, control, TALL.masks):
        tall = predict(xl, (latents, embeddings))
    turned = UNet2DConditionModel.from_config(xl.config).eval()
    turned.load_state_dict({name: w.mT if w.dim() == 4 else w for name, w in xl.state_dict().items()})
    with around(turned, control, TALL.masks.mT):
        wide = predict(turned, (latents.mT, embeddings))
    assert (tall - predict(xl, (latents, embeddings))).abs().max() > 1e-3
    torch.testing.assert_close(wide.mT, tall, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (24, 16), (10, 14), (7, 12)])
def test_the_size_of_each_layer_is_known(xl: UNet2DConditionModel, size: tuple[int, int]):
    found: dict[int, tuple[int, int]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, args: found.update({args[0][0, 0].numel(): args[0].shape[-2:]}))
        for module in xl.modules()
        if isinstance(module, Transformer2DModel)
    ]
    predict(xl, (torch.zeros(1, 4, *size), inputs(1)[1]))
    for hook in hooks:
        hook.remove()
    assert len(found) == 2 and all(cells_at(size, count) == tuple(cells) for count, cells in found.items())


def test_densediffusion_is_the_same_with_a_segment_of_the_background(unet: UNet2DConditionModel):
    """In which every pixel is: its logits towards all tokens are pushed down, and those towards each other up."""
    batch = inputs(4)
    numbers = Dense(cross_weight=1.0, self_weight=0.3, power=5.0, step_fraction=0.3, splice_phrases=True)
    layouts = [ONE.with_background(), TWO.with_background()]
    for one, before in zip(layouts, (ONE, TWO), strict=True):
        assert one is not None and one.masks.any(0).all()
        assert torch.equal(one.masks[-1], ~before.masks.any(0)) and not one.tokens[-1].any()
    with modulated(unet, layouts, numbers.modulation, TIMESTEPS):
        actual = predict(unet, batch)
    stock = unet.attn_processors
    unet.set_attn_processor(Explicit([None, None, *layouts], numbers.modulation, int(FIRST)))
    expected = predict(unet, batch)
    unet.set_attn_processor(stock)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)
    with modulated(unet, [ONE, TWO], numbers.modulation, TIMESTEPS):
        assert (predict(unet, batch) - actual).abs().amax((1, 2, 3))[2:].min() > 1e-3
    assert EVERYWHERE.with_background() is EVERYWHERE  # where nothing is left


def test_changes_the_conditional_half_of_images_with_a_layout_only(unet: UNet2DConditionModel):
    batch = inputs(6)
    plain = predict(unet, batch)
    with modulated(unet, [None, ONE, TWO], DEFAULT, TIMESTEPS):
        change = (predict(unet, batch) - plain).abs().amax((1, 2, 3))
    assert (change[:4] < 1e-5).all()
    assert (change[4:] > 1e-3).all()


def test_without_guidance_the_batch_is_all_conditional(unet: UNet2DConditionModel):
    batch = inputs(2)
    plain = predict(unet, batch)
    with modulated(unet, [ONE, None], DEFAULT, TIMESTEPS):
        change = (predict(unet, batch) - plain).abs().amax((1, 2, 3))
    assert change[0] > 1e-3
    assert change[1] < 1e-5


@pytest.mark.parametrize(
    ("layouts", "modulation", "timestep"),
    [
        ([None, None], DEFAULT, FIRST),
        ([ONE, TWO], DEFAULT, TIMESTEPS[6]),
        ([ONE, TWO], DEFAULT, LAST),
        ([ONE, TWO], replace(DEFAULT, step_fraction=0.0), FIRST),
        ([ONE, TWO], replace(DEFAULT, cross_weight=0.0, self_weight=0.0), FIRST),
    ],
    ids=["no layouts", "first step past the share", "last step", "no share", "no weight"],
)
def test_is_bit_equal_where_nothing_is_modulated(
    unet: UNet2DConditionModel, layouts: list[Layout | None], modulation: Modulation, timestep: Tensor
):
    batch = inputs(4)
    plain = predict(unet, batch, timestep)
    with modulated(unet, layouts, modulation, TIMESTEPS):
        assert torch.equal(predict(unet, batch, timestep), plain)


def test_the_last_step_of_the_share_is_modulated(unet: UNet2DConditionModel):
    batch = inputs(2)
    plain = predict(unet, batch, TIMESTEPS[5])
    with modulated(unet, [ONE], DEFAULT, TIMESTEPS):
        assert not torch.allclose(predict(unet, batch, TIMESTEPS[5]), plain, atol=1e-4)


def test_an_object_that_fills_the_image_changes_nothing(unet: UNet2DConditionModel):
    batch = inputs(2)
    plain = predict(unet, batch)
    with modulated(unet, [EVERYWHERE], DEFAULT, TIMESTEPS):
        torch.testing.assert_close(predict(unet, batch), plain, atol=1e-5, rtol=0)


def test_an_image_does_not_depend_on_the_layouts_beside_it(unet: UNet2DConditionModel):
    batch = inputs(6)
    results = []
    for beside in ([None, TWO, None], [ONE, TWO, TWO]):
        with modulated(unet, beside, DEFAULT, TIMESTEPS):
            results.append(predict(unet, batch)[4])
    assert torch.equal(*results)


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_leaves_the_unet_as_it_was(unet: UNet2DConditionModel, error: type[BaseException] | None):
    before, hooks = unet.attn_processors, len(unet._forward_pre_hooks)
    try:
        with modulated(unet, [ONE], DEFAULT, TIMESTEPS):
            assert unet.attn_processors.keys() == before.keys()
            assert not set(unet.attn_processors.values()) & set(before.values())
            if error:
                raise error
    except (ValueError, KeyboardInterrupt) as raised:
        assert type(raised) is error
    assert unet.attn_processors == before
    assert len(unet._forward_pre_hooks) == hooks
