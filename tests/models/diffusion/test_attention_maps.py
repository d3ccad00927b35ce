"""What is recorded is the attention that the layers use, of the right rows, and changes nothing that they compute."""

from __future__ import annotations

import logging
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.attention import WrittenOut
from torch import Tensor

from realign_cli import presets
from realign_cli.errors import UsageError
from realign_cli.models.diffusion.attention_control import CrossMap, Layout, modulated, plain_map
from realign_cli.models.diffusion.attention_maps import recorded
from realign_cli.models.diffusion.regional import RegionTexts, readings_of, regional
from realign_cli.models.language.rule_parser import RuleParser
from realign_cli.registry import Models
from realign_cli.roles import ATTENTION_MAPS, Region, Request
from realign_cli.settings import Modulation, Regional, RegionControl, Structure
from realign_cli.stages.generate import Generate

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from realign_cli.models.diffusion.stable_diffusion import StableDiffusion
    from realign_cli.roles import Span

WIDTH, TOKENS, SIDE = 16, 12, 16
TIMESTEPS = torch.tensor([901, 501])  # of which the first is controlled
MODULATION = Modulation(1.0, 0.3, 1.0, 0.5, True, False, True, False)
REGIONAL = Regional(step_fraction=0.5, dilation=0.0)


def inputs(rows: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rows)
    return torch.randn(rows, 4, SIDE, SIDE, generator=draw), torch.randn(rows, TOKENS, WIDTH, generator=draw)


def layout() -> Layout:
    masks, tokens = torch.zeros(1, 64, 64, dtype=torch.bool), torch.zeros(1, TOKENS, dtype=torch.bool)
    masks[0, :32, :32] = tokens[0, 2:4] = True
    return Layout(masks, tokens, torch.tensor([2.0]))


@torch.no_grad()
def run(unet: UNet2DConditionModel, given: tuple[Tensor, Tensor]) -> Tensor:
    return torch.stack([unet(given[0], t, encoder_hidden_states=given[1]).sample for t in TIMESTEPS])


def test_maps_have_the_shape_of_the_image(unet: UNet2DConditionModel) -> None:
    latents, embeddings = inputs(1)
    with recorded(unet, [0], 1, plain_map) as sums:
        run(unet, (latents[:, :, :8], embeddings))
    assert sums.maps(0).shape == (TOKENS, 8, SIDE)


@pytest.mark.parametrize("guided", [True, False])
def test_maps_are_those_of_attention_written_out(unet: UNet2DConditionModel, guided: bool) -> None:
    """Each layer, head and step of the conditional half enlarged by itself, without those of the middle block."""
    given = inputs(6 if guided else 3)
    with recorded(unet, [0, 2], 3, plain_map) as sums:
        run(unet, given)
    stock, found = unet.attn_processors, defaultdict[str, list[Tensor]](list)
    unet.set_attn_processor({name: WrittenOut(found[name].append) for name in stock})
    run(unet, given)
    unet.set_attn_processor(stock)
    layers = [one[-3:] for name, kept in found.items() if not name.startswith("mid_block") for one in kept]
    assert len(layers) == 2 * 15 and sum(map(len, found.values())) == 2 * 16
    for image in (0, 2):
        enlarged = []
        for layer in layers:
            for head in layer[image]:
                side = round(len(head) ** 0.5)
                cells = head.T.reshape(1, TOKENS, side, side)
                enlarged.append(F.interpolate(cells, (SIDE, SIDE), mode="bilinear")[0])
        expected = torch.stack(enlarged).mean(0)
        torch.testing.assert_close(sums.maps(image), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(sums.maps(image).sum(0), torch.ones(SIDE, SIDE), atol=1e-6, rtol=0)
    assert sums.sums.keys() == {0, 2}
    assert all(one.keys() == {256, 64, 16} for one in sums.sums.values())
    for pixels, own in sums.sums[0].items():  # five layers of each resolution, two steps
        torch.testing.assert_close(own.sum(-1), torch.full((pixels,), 10.0), atol=1e-5, rtol=0)


def test_modulated_maps_are_what_the_layers_mix_values_by(unet: UNet2DConditionModel) -> None:
    given, seen, checked = inputs(4), dict[int, Tensor](), list[float]()

    def watch(control: CrossMap) -> CrossMap:
        def look(attn: Any, image: int, query: Tensor, key: Tensor) -> Tensor:
            seen[image] = control(attn, image, query, key)
            return seen[image]

        return look

    def check(attn: Any, _args: Any, kwargs: dict[str, Any], out: Tensor) -> None:
        value = attn.to_v(kwargs["encoder_hidden_states"][-2:]).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        mixed = torch.stack([seen[0], seen[1]]) @ value
        expected = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        checked.append(float((out[-2:] - expected).abs().max()))

    layers = [m for n, m in unet.named_modules() if n.endswith(".attn2") and not n.startswith("mid_block")]
    plain = run(unet, given)
    with modulated(unet, [layout(), None], MODULATION, TIMESTEPS) as control:
        without = run(unet, given)
        with ExitStack() as stack, recorded(unet, [0, 1], 2, watch(control)) as sums:
            for layer in layers:
                stack.callback(layer.register_forward_hook(check, with_kwargs=True).remove)
            within = run(unet, given)
    assert torch.equal(within, without) and not torch.allclose(within[0, 2], plain[0, 2], atol=1e-3)
    assert len(checked) == 2 * 15 and max(checked) < 1e-5
    with recorded(unet, [0, 1], 2, plain_map) as unmodulated:
        run(unet, given)
    assert torch.equal(sums.maps(1), unmodulated.maps(1))
    phrase, before = sums.maps(0)[2:4].sum(0), unmodulated.maps(0)[2:4].sum(0)
    assert phrase[:8, :8].mean() > before[:8, :8].mean() + 0.01
    assert phrase[9:, 9:].mean() < before[9:, 9:].mean() + 0.01


def test_a_region_that_reads_the_prompt_itself_has_the_maps_of_the_prompt(unet: UNet2DConditionModel) -> None:
    given = inputs(2)
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, :32] = True
    found = []
    for readings in (torch.eye(TOKENS)[None], torch.eye(TOKENS).roll(1, 1)[None]):
        texts = RegionTexts(masks, given[1][1:], readings)
        with (
            regional(unet, [texts], REGIONAL, TIMESTEPS) as control,
            recorded(unet, [0], 1, control) as sums,
        ):
            run(unet, given)
        found.append(sums.maps(0))
    with recorded(unet, [0], 1, plain_map) as sums:
        run(unet, given)
    plain = sums.maps(0)
    torch.testing.assert_close(found[0], plain, atol=1e-5, rtol=0)
    turned = found[1][:, :7, :]  # in the region and in one of two steps, each token's share is the next one's
    torch.testing.assert_close(turned.sum(0), torch.ones(7, SIDE), atol=1e-6, rtol=0)
    assert (turned - plain[:, :7]).abs().max() > 0.01
    torch.testing.assert_close(found[1][:, 12:], plain[:, 12:], atol=1e-4, rtol=0)


def test_tokens_count_for_all_their_places() -> None:
    """Of six tokens <bos> red ring red ring <eos>, the text is <bos> red ring <eos> and two more of padding."""
    readings = readings_of({1: [1, 3], 2: [2, 4]}, 5, 6)
    half = [[0, 0.5, 0, 0.5, 0, 0], [0, 0, 0.5, 0, 0.5, 0]]
    end = [0, 0, 0, 0, 0, 1]
    assert readings.tolist() == [[1, 0, 0, 0, 0, 0], *half, end, end, end]
    assert readings_of({}, 5, 6).tolist() == [[1, 0, 0, 0, 0, 0], *[end] * 5]


def test_looks_with_a_gradient_do_not_count_and_nothing_stays_behind(unet: UNet2DConditionModel) -> None:
    given = inputs(1)
    with pytest.raises(KeyboardInterrupt), recorded(unet, [0], 1, plain_map) as sums:
        unet(given[0], TIMESTEPS[0], encoder_hidden_states=given[1])
        assert not sums.sums
        run(unet, given)
        assert sums.sums
        raise KeyboardInterrupt
    assert not any(module._forward_pre_hooks for module in unet.modules())
    with recorded(unet, [], 1, plain_map) as none:
        assert not any(module._forward_pre_hooks for module in unet.modules())
        run(unet, given)
    assert not none.sums


# Of requests, on the embedded generator

PROMPTS = ["a red circle and a blue square", "a red circle and a red ring"]
MASK = np.zeros((64, 64), bool)
MASK[8:40, 8:40] = True


def controls() -> dict[str, RegionControl | None]:
    methods = ("modulation", "regional", "dense")
    found = {name: Models(presets.load("tiny", [f"refine.method={name}"])).region_control for name in methods}
    return {"plain": None, **found}


CONTROLS = controls()


@pytest.fixture(scope="module")
def generator() -> StableDiffusion:
    quick = ["generator.steps=2", "generator.model_batch_size=2"]
    return Models(presets.load("tiny", quick), "cpu").generator  # type: ignore[return-value]


def request(number: int) -> Request:
    (phrases,) = RuleParser().parse([PROMPTS[number]])
    spans = tuple(span for phrase in phrases for span in (phrase.span, *phrase.modifiers))
    regions = tuple(Region(PROMPTS[number][slice(*one.span)], 2.0, MASK) for one in phrases[:1])
    return Request(PROMPTS[number], number, regions, str(number), mapped=spans)


REQUESTS = [request(number) for number in range(2)]


def draw(
    generator: StableDiffusion, requests: list[Request], control: Any
) -> list[tuple[np.ndarray, dict[Span, np.ndarray]]]:
    images = generator.generate(requests, control)
    return [(np.asarray(image), image.info.get(ATTENTION_MAPS, {})) for image in images]  # type: ignore[union-attr]


def same(one: dict[Span, np.ndarray], other: dict[Span, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[span], other[span]) for span in one)


@pytest.mark.parametrize("name", CONTROLS)
def test_images_are_the_same_and_maps_too_in_any_batch(generator: StableDiffusion, name: str) -> None:
    control = CONTROLS[name]
    bare = draw(generator, [replace(one, mapped=()) for one in REQUESTS], control)
    together = draw(generator, REQUESTS, control)
    backwards = draw(generator, REQUESTS[::-1], control)[::-1]
    alone = draw(generator, REQUESTS[1:], control)
    assert not any(maps for _, maps in bare)
    assert same(together[1][1], alone[0][1])
    for number, (one, (image, maps)) in enumerate(zip(REQUESTS, together, strict=True)):
        assert np.array_equal(image, bare[number][0])
        assert tuple(maps) == one.mapped and same(maps, backwards[number][1])
        assert all(own.shape == (16, 16) and own.dtype == np.float32 and 0 < own.max() < 1 for own in maps.values())


@pytest.mark.parametrize("name", CONTROLS)
def test_all_tokens_of_a_prompt_share_each_pixel(
    generator: StableDiffusion, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(generator, "_maps", lambda _request, maps: seen.append(maps) or {})
    draw(generator, REQUESTS, CONTROLS[name])
    assert len(seen) == 2
    for maps in seen:
        torch.testing.assert_close(maps.sum(0), torch.ones(16, 16), atol=1e-6, rtol=0)


def test_two_places_of_a_word_have_two_maps_and_a_phrase_that_of_all_its_tokens(generator: StableDiffusion) -> None:
    prompt = PROMPTS[1]
    one, other = ((i, i + 3) for i in (prompt.index("red"), prompt.rindex("red")))
    words = ((0, 1), one, (6, 12), (0, 12), other)
    ((_, maps),) = draw(generator, [Request(prompt, 1, mapped=words)], None)
    assert np.abs(maps[one] - maps[other]).max() > 1e-3
    np.testing.assert_allclose(maps[0, 12], maps[0, 1] + maps[one] + maps[6, 12], atol=1e-6)


def test_looks_that_move_latents_are_not_steps(generator: StableDiffusion) -> None:
    """Latents that are moved by nothing give the maps of the plain image."""
    control = Models(presets.load("tiny", ["generate.method=attend", "attend.step_size=0.0"])).phrase_control
    (phrases,) = RuleParser().parse(PROMPTS[:1])
    minded = replace(REQUESTS[0], regions=(), phrases=phrases)
    ((_, moved),), ((_, plain),) = draw(generator, [minded], control), draw(generator, [minded], None)
    assert same(moved, plain)


def test_a_phrase_that_is_not_read_in_full_has_no_map_and_is_named(
    generator: StableDiffusion, caplog: pytest.LogCaptureFixture
) -> None:
    long = "a green cross and a pink square and a cyan circle and a blue ring"
    (phrases,) = RuleParser().parse([long])
    with caplog.at_level(logging.WARNING):
        asked = Request(long, 0, record="7", mapped=tuple(one.span for one in phrases))
        ((_, maps),) = draw(generator, [asked], None)
    assert list(maps) == [one.span for one in phrases[:3]]
    messages = [one.message for one in caplog.records if "no map" in one.message]
    assert messages == ["record 7: 'a blue ring' has no map, the generator does not read all of it"]


def test_several_texts_at_once_have_no_maps() -> None:
    models = Models(presets.load("tiny"))
    Generate(models, Structure(form="default"), [])
    with pytest.raises(UsageError, match=r"there is no one attention map: leave out --maps, or --set structure\.form"):
        Generate(models, Structure(form="conjunction"), [])
