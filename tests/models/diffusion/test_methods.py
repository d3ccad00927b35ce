"""The methods of generating on the embedded generator: what holds for each of them, whatever it is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from realign_cli import presets
from realign_cli.models.language.rule_parser import RuleParser
from realign_cli.registry import Models
from realign_cli.roles import EXTRA_STEPS, NounPhrase, Region, Request
from realign_cli.settings import Attend, Dense, LatentGuidance, PhraseControl, Structure, SynGen

if TYPE_CHECKING:
    from PIL.Image import Image

    from realign_cli.models.diffusion.stable_diffusion import StableDiffusion

METHODS = ["structure", "conjunction", "attend", "syngen", "predicated"]
STEPS = 2
QUICK = [f"generator.steps={STEPS}", "generator.model_batch_size=2"]
PROMPTS = [
    "a red circle and a blue square",
    "a green ring above a yellow triangle",
    "a red circle and a red circle",
    "a circle",
    "left of the",
]
DENSE = Dense(cross_weight=1.0, self_weight=0.3, power=1.0, step_fraction=0.5, splice_phrases=True)


def control(method: str) -> PhraseControl:
    if method == "conjunction":
        return Structure(form="conjunction")
    numbers = Models(presets.load("tiny", [f"generate.method={method}"])).phrase_control
    assert numbers
    return replace(numbers, thresholds=((0.0, 0.9),), refinements=2) if isinstance(numbers, Attend) else numbers


def request(seed: int, prompt: str) -> Request:
    (phrases,) = RuleParser().parse([prompt])
    return Request(prompt, seed, phrases=phrases, record=str(seed))


REQUESTS = [request(seed, prompt) for seed, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def generator() -> StableDiffusion:
    generator = Models(presets.load("tiny", QUICK), "cpu").generator
    return generator  # type: ignore[return-value]


@pytest.fixture(scope="module")
def plain(generator: StableDiffusion) -> list[np.ndarray]:
    return pixels(generator.generate(REQUESTS))


def pixels(images: list[Image]) -> list[np.ndarray]:  # type: ignore[type-arg]
    return [np.asarray(image) for image in images]


def equal(some: list[np.ndarray], others: list[np.ndarray]) -> list[bool]:
    return [np.array_equal(one, other) for one, other in zip(some, others, strict=True)]


@pytest.mark.parametrize("method", METHODS)
def test_a_request_gives_the_same_image_in_any_batch_and_after_any_other(
    generator: StableDiffusion, plain: list[np.ndarray], method: str
) -> None:
    numbers = control(method)
    together = pixels(generator.generate(REQUESTS, numbers))
    backwards = pixels(generator.generate(REQUESTS[::-1], numbers))[::-1]
    alone = [pixels(generator.generate([one], numbers))[0] for one in REQUESTS]
    assert equal(together, backwards) == equal(together, alone) == [True] * 5
    assert equal(pixels(generator.generate(REQUESTS)), plain) == [True] * 5  # nothing stays behind


@pytest.mark.parametrize("method", METHODS)
def test_what_says_nothing_leaves_the_image_as_it_is(
    generator: StableDiffusion, plain: list[np.ndarray], method: str
) -> None:
    """To the bit: a prompt without phrases, without attributes for SynGen, or of one phrase for StructureDiffusion."""
    drawn = pixels(generator.generate(REQUESTS, control(method)))
    if method == "conjunction":  # the mean of two equal attentions
        assert np.abs(drawn[3].astype(int) - plain[3].astype(int)).max() <= 1
        drawn[3] = plain[3]
    same = [3, 4] if method in ("syngen", "structure", "conjunction") else [4]
    assert [i for i, one in enumerate(equal(drawn, plain)) if one] == same
    bare = [replace(one, phrases=()) for one in REQUESTS]
    assert equal(pixels(generator.generate(bare, control(method))), plain) == [True] * 5


@pytest.mark.parametrize("method", ["attend", "syngen", "predicated"])
def test_a_step_of_no_size_and_no_steps_leave_the_images_as_they_are(
    generator: StableDiffusion, plain: list[np.ndarray], method: str
) -> None:
    numbers = control(method)
    assert isinstance(numbers, LatentGuidance)
    for still in (replace(numbers, step_size=0.0), replace(numbers, step_fraction=0.0)):
        assert equal(pixels(generator.generate(REQUESTS, still)), plain) == [True] * 5


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_phrases_changes_nothing(generator: StableDiffusion, method: str) -> None:
    turned = [replace(one, phrases=one.phrases[::-1]) for one in REQUESTS]
    numbers = control(method)
    images = [pixels(generator.generate(requests, numbers)) for requests in (turned, REQUESTS)]
    assert equal(*images) == [True] * 5


@pytest.mark.parametrize("method", METHODS)
def test_of_two_equal_phrases_each_has_its_own_place(generator: StableDiffusion, method: str) -> None:
    """What is done for the first is not what is done for the second, though their texts are the same."""
    twice = REQUESTS[2]
    first, second = (replace(twice, phrases=(phrase,)) for phrase in twice.phrases)
    one, other = pixels(generator.generate([first, second], control(method)))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_nothing_behind(
    generator: StableDiffusion, plain: list[np.ndarray], method: str, error: type[BaseException]
) -> None:
    unet = generator.pipeline.unet
    before = unet.attn_processors

    def broken(*_: object) -> None:
        raise error

    hook = unet.up_blocks[1].attentions[0].proj_out.register_forward_hook(broken)
    with pytest.raises(error):
        generator.generate(REQUESTS[:1], control(method))
    hook.remove()
    assert unet.attn_processors == before
    assert not any(module._forward_pre_hooks for module in unet.modules())
    assert equal(pixels(generator.generate(REQUESTS)), plain) == [True] * 5


def test_an_image_says_what_it_took_beside_the_steps(generator: StableDiffusion) -> None:
    """Half a guided step for each update: one in the first of 2 steps, and up to 2 refinements."""

    def extra(method: str) -> list[object]:
        return [image.info.get(EXTRA_STEPS) for image in generator.generate(REQUESTS, control(method))]

    assert extra("structure") == [None] * 5
    assert extra("syngen") == [0.5, 0.5, 0.5, 0.0, 0.0]
    assert extra("predicated") == [0.5] * 4 + [0.0]
    refined = extra("attend")
    assert refined[4] == 0.0 and all(one in (0.5, 1.0, 1.5) for one in refined[:4]) and max(refined[:4]) > 0.5  # type: ignore[type-var]


def test_without_guidance_a_step_is_one_evaluation(generator: StableDiffusion) -> None:
    unguided = Models(presets.load("tiny", [*QUICK, "generator.guidance=1"]), "cpu").generator
    (image,) = unguided.generate(REQUESTS[:1], control("syngen"))
    assert image.info[EXTRA_STEPS] == 1.0  # type: ignore[union-attr]


def test_a_phrase_that_is_not_read_in_full_is_left_alone_and_named(
    generator: StableDiffusion, caplog: pytest.LogCaptureFixture
) -> None:
    long = request(7, "a green cross and a pink square and a cyan circle and a blue ring")
    shorter = replace(long, phrases=long.phrases[:3])
    for method in ("structure", "syngen"):
        caplog.clear()
        one, other = pixels(generator.generate([long, shorter], control(method)))
        assert np.array_equal(one, other)
        messages = [record.message for record in caplog.records if "left alone" in record.message]
        assert messages == ["record 7: 'a blue ring' is left alone, the generator does not read all of it"]


def test_a_modifier_of_another_thing_changes_what_syngen_does(generator: StableDiffusion) -> None:
    """The pairs are those of the request: heads and modifiers crossed give another image."""
    prompt = PROMPTS[0]
    (red, blue) = REQUESTS[0].phrases
    crossed = (NounPhrase(red.span, red.head, blue.modifiers), NounPhrase(blue.span, blue.head, red.modifiers))
    numbers = control("syngen")
    assert isinstance(numbers, SynGen)
    one, other = pixels(generator.generate([REQUESTS[0], Request(prompt, 0, phrases=crossed)], numbers))
    assert not np.array_equal(one, other)


# DenseDiffusion


def half(columns: slice) -> np.ndarray:
    mask = np.zeros((64, 64), dtype=bool)
    mask[8:48, columns] = True
    return mask


RED, BLUE = Region("a red circle", 2.0, half(slice(0, 24))), Region("a blue square", 0.5, half(slice(36, 64)))


def dense(generator: StableDiffusion, regions: tuple[Region, ...], numbers: Dense = DENSE) -> np.ndarray:
    return pixels(generator.generate([Request(PROMPTS[0], 0, regions)], numbers))[0]


def test_densediffusion_of_no_weight_changes_nothing(generator: StableDiffusion, plain: list[np.ndarray]) -> None:
    none = replace(DENSE, cross_weight=0.0, self_weight=0.0, splice_phrases=False)
    assert np.array_equal(dense(generator, (RED, BLUE), none), plain[0])
    assert np.array_equal(dense(generator, ()), plain[0])
    assert not np.array_equal(dense(generator, (RED, BLUE)), plain[0])


def test_densediffusion_of_one_object_that_fills_the_image_changes_nothing(
    generator: StableDiffusion, plain: list[np.ndarray]
) -> None:
    whole = Region("a red circle", 2.0, np.ones((64, 64), bool))
    drawn = dense(generator, (whole,), replace(DENSE, splice_phrases=False))
    assert np.abs(drawn.astype(int) - plain[0].astype(int)).max() <= 1


def test_densediffusion_knows_no_likelihood_and_no_order(generator: StableDiffusion) -> None:
    both = dense(generator, (RED, BLUE))
    assert np.array_equal(both, dense(generator, (replace(RED, likelihood=0.5), BLUE)))
    assert np.abs(both.astype(int) - dense(generator, (BLUE, RED)).astype(int)).max() <= 1


def test_densediffusion_minds_the_background_as_well(generator: StableDiffusion) -> None:
    request = Request(PROMPTS[0], 0, (RED, BLUE))
    (without,) = pixels(generator.generate([request], DENSE.modulation))
    assert not np.array_equal(dense(generator, (RED, BLUE)), without)
