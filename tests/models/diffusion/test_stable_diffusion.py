from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from torch import Tensor

from realign_cli.errors import RecordError, UsageError
from realign_cli.models.diffusion.stable_diffusion import StableDiffusion
from realign_cli.roles import Region, Request
from realign_cli.settings import Modulation, Regional, RegionControl

if TYPE_CHECKING:
    from PIL.Image import Image

MODULATION = Modulation(
    cross_weight=2.0,
    self_weight=0.6,
    power=1,
    step_fraction=0.5,
    clamp_lambda=True,
    splice_phrases=True,
    use_likelihood=True,
    only_phrase_tokens=False,
)
REGIONAL = Regional(step_fraction=0.5, dilation=0.1)
PROMPT = "a red circle and a blue ring"


def _mask(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((64, 64), dtype=bool)
    mask[rows, columns] = True
    return mask


LEFT = _mask(slice(8, 40), slice(0, 24))
RIGHT = _mask(slice(20, 60), slice(36, 64))
RED = Region("a red circle", 2.0, LEFT)
BLUE = Region("a blue ring", 0.5, RIGHT)
REQUESTS = [
    Request(PROMPT, 1, (RED, BLUE)),
    Request("a green cross", 2),
    Request("a pink square", 3, (Region("a pink square", 2.0, RIGHT),)),
    Request(PROMPT, 1),
    Request(PROMPT, 4, (RED,)),
]


@pytest.fixture
def generator(sd_folder: Path) -> StableDiffusion:
    return StableDiffusion(str(sd_folder), device="cpu", steps=4, guidance=3.0, size=64, model_batch_size=3)


def same(a: Image, b: Image) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


def conditioning(generator: StableDiffusion, request: Request, modulation: Modulation) -> Tensor:
    """The prompt embedding (T, D) that the UNet is given for a request."""
    seen: list[Tensor] = []
    unet = generator.pipeline.unet
    hook = unet.register_forward_pre_hook(
        lambda _unet, _args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    generator.generate([request], modulation)
    hook.remove()
    return seen[0][len(seen[0]) // 2]


def encode(generator: StableDiffusion, text: str) -> Tensor:
    ids = generator.pipeline.tokenizer(text, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        return generator.pipeline.text_encoder(ids)[0][0]


@pytest.mark.parametrize("control", [MODULATION, REGIONAL])
def test_a_request_gives_the_same_image_in_any_batch(generator: StableDiffusion, control: RegionControl):
    together = generator.generate(REQUESTS, control)
    reversed_ = generator.generate(REQUESTS[::-1], control)[::-1]
    alone = [generator.generate([request], control)[0] for request in REQUESTS]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(together, reversed_, alone, strict=True))
    assert all(image.mode == "RGB" and image.size == (64, 64) for image in together)


def test_without_modulation_it_is_the_stock_pipeline(generator: StableDiffusion):
    stock = generator.pipeline(
        prompt=[request.prompt for request in REQUESTS[:3]],
        latents=torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(i)) for i in (1, 2, 3)]),
        num_inference_steps=4,
        guidance_scale=3.0,
        height=64,
        width=64,
    ).images
    assert all(same(a, b) for a, b in zip(generator.generate(REQUESTS[:3]), stock, strict=True))


@pytest.mark.parametrize("control", [MODULATION, REGIONAL])
def test_regions_change_the_image_and_nothing_else_does(generator: StableDiffusion, control: RegionControl):
    plain = generator.generate(REQUESTS)
    refined = generator.generate(REQUESTS, control)
    changed = [bool(request.regions) for request in REQUESTS]
    changed[2] &= control == MODULATION  # a region that reads what the whole image reads changes nothing
    assert [not same(a, b) for a, b in zip(plain, refined, strict=True)] == changed


def test_noise_comes_from_the_seed(generator: StableDiffusion):
    a, b, c = generator.generate([Request(PROMPT, 5), Request(PROMPT, 6), Request(PROMPT, 5)])
    assert same(a, c)
    assert not same(a, b)


@pytest.mark.parametrize("splice", [False, True])
def test_unlikely_objects_are_dropped(generator: StableDiffusion, splice: bool):
    modulation = replace(MODULATION, splice_phrases=splice)
    with_unlikely = Request(PROMPT, 1, (RED, replace(BLUE, likelihood=0.0)))
    a, b = generator.generate([with_unlikely, Request(PROMPT, 1, (RED,))], modulation)
    assert same(a, b)


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        (Region("a green circle", 2.0, LEFT), "its tokens are not among"),
        (Region("a book", 2.0, LEFT), "its tokens are not among"),
        (Region("", 2.0, LEFT), "its tokens are not among"),
        (Region("a blue ring", 2.0, np.zeros((64, 64), bool)), "its mask is empty"),
    ],
    ids=["other words", "unknown word", "no words", "no mask"],
)
def test_a_region_that_cannot_be_used_is_skipped_with_its_reason(
    generator: StableDiffusion, region: Region, reason: str, caplog: pytest.LogCaptureFixture
):
    # "vase" and "book" have equally many letters, and so equally many unknown tokens
    prompt = f"{PROMPT} and a vase"
    a, b = generator.generate([Request(prompt, 1, (region,)), Request(prompt, 1)], MODULATION)
    assert same(a, b)
    (message,) = [record.message for record in caplog.records if "region" in record.message]
    assert f"'{region.phrase}'" in message
    assert reason in message


def test_embeddings_do_not_depend_on_the_texts_beside_them(generator: StableDiffusion, sd_folder: Path):
    texts = [PROMPT, "a red circle", "", *(f"a {word} ring" for word in ("red", "blue", "green", "pink", "orange"))]
    together = generator.embed(
        [*texts, "a white ring", PROMPT]
    ).tokens  # more than are encoded at once, one of them twice
    fresh = StableDiffusion(str(sd_folder), device="cpu", steps=4, guidance=3.0, size=64)
    assert torch.equal(together[:8], torch.cat([fresh.embed([text]).tokens for text in texts]))
    assert torch.equal(together[9], together[0])
    torch.testing.assert_close(together[3], encode(generator, texts[3]))


def test_a_text_is_encoded_once_and_as_it_was_after_splicing(generator: StableDiffusion):
    calls: list[int] = []
    hook = generator.pipeline.text_encoder.register_forward_hook(lambda _model, _args, out: calls.append(len(out[0])))
    generator.generate(REQUESTS, MODULATION)
    first = len(calls)
    generator.generate(REQUESTS, MODULATION)
    hook.remove()
    # two batches of images: their prompts, the phrases of each, and the empty prompt
    assert 0 < first <= 5
    assert len(calls) == first
    torch.testing.assert_close(generator.embed([PROMPT]).tokens[0], encode(generator, PROMPT))


def test_no_more_texts_are_remembered_than_fit(generator: StableDiffusion, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("realign_cli.models.diffusion.stable_diffusion._TEXTS_REMEMBERED", 2)
    before = generator.embed([PROMPT, "a red circle", "a blue ring"]).tokens
    assert len(generator._embeddings) == 2
    assert torch.equal(generator.embed([PROMPT, "a red circle", "a blue ring"]).tokens, before)


def test_phrases_are_spliced_where_they_stand(generator: StableDiffusion):
    prompt = "A Red circle, a ring and a red circle"  # <bos> a red circle , a ring and a red circle <eos>
    request = Request(prompt, 1, (RED,))
    whole, phrase = encode(generator, prompt), encode(generator, "a red circle")
    given = conditioning(generator, request, MODULATION)
    expected = whole.clone()
    expected[1:4] = expected[8:11] = phrase[1:4]
    torch.testing.assert_close(given, expected)
    assert not torch.allclose(whole[8:11], phrase[1:4], atol=1e-3)
    torch.testing.assert_close(conditioning(generator, request, replace(MODULATION, splice_phrases=False)), whole)


def test_a_phrase_cut_off_by_the_length_of_the_model_is_not_found(
    generator: StableDiffusion, caplog: pytest.LogCaptureFixture
):
    prompt = "a green cross and a pink square and a cyan circle and a blue ring"
    generator.generate([Request(prompt, 1, (BLUE,))], MODULATION)
    assert "the region of 'a blue ring' is left alone" in caplog.text


def test_each_unknown_word_is_named_once(generator: StableDiffusion, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    generator.generate([Request("a Book and a vase, a book", 1), Request("a vase", 2), Request("a red ring", 3)])
    generator.generate([Request("a book", 4)])
    messages = [record.message for record in caplog.records if "does not know" in record.message]
    assert ["'book'" in messages[0], "'vase'" in messages[1]] == [True, True]
    assert len(messages) == 2
    assert "circle" in messages[0]
    assert "<" not in messages[0]


def test_what_is_no_number_fails_its_own_image_alone(generator: StableDiffusion):
    """One word of the text encoder is broken; the images of other prompts stay as they were, beside it too."""
    requests = [Request("a green cross", 1), Request("a pink square", 2), Request("a red ring", 3)]
    sound = generator.generate(requests)
    (word,) = generator.pipeline.tokenizer("pink").input_ids[1:-1]
    generator._embeddings.clear()
    with torch.no_grad():
        generator.pipeline.text_encoder.get_input_embeddings().weight[word] = float("nan")
    first, broken, last = generator.generate(requests)
    assert isinstance(broken, RecordError) and broken.kind == "not_finite"
    assert "the generator gave no finite numbers; lower generator.guidance" in str(broken)
    assert same(first, sound[0]) and same(last, sound[2])
    assert isinstance(generator.generate([requests[1]], MODULATION)[0], RecordError)


def test_what_is_cut_of_a_prompt_is_said_once_of_its_record(
    generator: StableDiffusion, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING)
    generator._embeddings.clear()
    long = "a green cross and a pink square and a cyan circle and a blue ring"
    for _ in range(2):
        generator.generate([Request("a red ring", 1, record="a"), Request(long, 2, record="b")])
    assert [(record.name, record.message) for record in caplog.records] == [
        (
            "realign_cli.models.diffusion.pipeline",
            "record b: the generator reads 16 tokens of the prompt's 17; it does not see 'ring'",
        )
    ]


def test_latents_are_not_clipped(generator: StableDiffusion):
    assert type(generator.pipeline.scheduler).__name__ == "DDIMScheduler"
    assert not generator.pipeline.scheduler.config.clip_sample


def test_no_requests(generator: StableDiffusion):
    assert generator.generate([]) == []


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"nobody/nothing.*--preset tiny") as caught:
        StableDiffusion("nobody/nothing", device="cpu", steps=4, guidance=3.0, size=64)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_pipeline(tmp_path: Path):
    with pytest.raises(UsageError, match=r"not a StableDiffusionPipeline.*model_index.json"):
        StableDiffusion(str(tmp_path), device="cpu", steps=4, guidance=3.0, size=64)


def test_a_region_that_is_the_whole_image_is_an_image_of_its_text(generator: StableDiffusion):
    """And of half a region and half the other, the attention is computed as if each stood alone."""
    whole = np.ones((64, 64), bool)
    control = Regional(step_fraction=1.0, dilation=0.0)
    seen = Request(PROMPT, 7, (Region("a green cross", 2.0, whole),))
    (image,), (plain,) = generator.generate([seen], control), generator.generate([Request("a green cross", 7)])
    difference = np.abs(np.asarray(image, int) - np.asarray(plain, int))
    assert difference.max() <= 1
    assert not same(image, generator.generate([Request(PROMPT, 7)])[0])


def test_in_no_step_there_are_no_regions(generator: StableDiffusion):
    control = Regional(step_fraction=0.0, dilation=0.1)
    assert all(map(same, generator.generate(REQUESTS, control), generator.generate(REQUESTS)))


def test_a_region_reads_the_prompt_with_its_own_phrase_in_the_place_of_all_others(
    generator: StableDiffusion, monkeypatch: pytest.MonkeyPatch
):
    read: list[str] = []
    embed = generator.embed
    monkeypatch.setattr(generator, "embed", lambda texts, *more: (read.extend(texts), embed(texts, *more))[1])
    prompt = "a photo of a red circle and a blue ring and a blue ring in fog"
    unread, elsewhere = Region("", 2.0, RIGHT), Region("a pink square", 2.0, LEFT)

    def texts(*regions: Region) -> list[str]:
        read.clear()
        generator.generate([Request(prompt, 1, regions)], REGIONAL)
        return [text for text in read if text not in (prompt, "")]

    red = "a photo of a red circle and a red circle and a red circle in fog"
    blue = "a photo of a blue ring and a blue ring and a blue ring in fog"
    assert texts(RED, BLUE, unread) == [red, blue]
    assert texts(RED) == ["a red circle"], "the prompt itself would change nothing"
    assert texts(elsewhere, RED) == [
        red.replace("a red circle", "a pink square", 1).replace("a red circle", "a blue ring"),
        "a red circle",
    ]


def test_what_a_region_reads_counts_for_the_tokens_that_it_was_taken_from(generator: StableDiffusion):
    texts = generator._texts(REQUESTS[0])  # 1 a, 2 red, 3 circle, 4 and, 5 a, 6 blue, 7 ring, 8 <eos>
    assert texts is not None
    counted = [one.argmax(-1)[:9].tolist() for one in texts.readings]
    assert counted == [[0, 1, 2, 3, 4, 1, 2, 3, 8], [0, 5, 6, 7, 4, 5, 6, 7, 8]]
    assert all(torch.equal(one.sum(-1), torch.ones(len(one))) for one in texts.readings)
