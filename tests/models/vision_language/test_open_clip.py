"""The open_clip adapter on the packaged CLIP and NegCLIP."""

from __future__ import annotations

import open_clip
import pytest
import torch
from PIL import Image

from realign_cli.errors import RealignError
from realign_cli.models.vision_language.open_clip import OpenClipMetric
from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.train import examples
from realign_cli.tinyworld.train.measures import prefers_truth
from realign_cli.tinyworld.train.pictures import draw_held_out
from realign_cli.tinyworld.train.publish import WEIGHTS

PROMPTS = ["a red circle", "a green ring left of a blue square", "a red cross, a pink ring and a yellow triangle"]


@pytest.fixture(scope="module")
def metrics() -> dict[str, OpenClipMetric]:
    return {column: OpenClipMetric(WEIGHTS / column, device="cpu", column=column) for column in ("clip", "negclip")}


def pictures(seed: int, *sizes: tuple[int, int]) -> list[Image.Image]:
    stream = scenes.scenes(seed, held_out=True)
    return [Image.fromarray(scenes.render(next(stream))).resize(size) for size in sizes]


def score(metric: OpenClipMetric):
    def of(pixels: torch.Tensor, texts: list[str]) -> torch.Tensor:
        images = [Image.fromarray((p.permute(1, 2, 0) * 255).round().byte().numpy()) for p in pixels]
        return torch.tensor(metric.measure(images, texts)[metric.column])

    return of


@torch.no_grad()
def test_column_is_the_cosine_that_open_clip_computes(metrics):
    images = pictures(1, (64, 64), (200, 200), (120, 90))
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{WEIGHTS / 'clip'}")
    ids = open_clip.get_tokenizer(f"local-dir:{WEIGHTS / 'clip'}")(PROMPTS)
    logits, _ = model.eval().get_logits(torch.stack([preprocess(image) for image in images]), ids)
    cosines = (logits / model.logit_scale.exp()).diagonal()
    columns = metrics["clip"].measure(images, PROMPTS)
    assert list(columns) == ["clip"]
    assert columns["clip"] == pytest.approx(cosines.tolist(), abs=1e-5)


@pytest.mark.parametrize("column", ["clip", "negclip"])
def test_scores_do_not_depend_on_the_batch(metrics, column):
    images = pictures(2, (64, 64), (100, 70), (48, 48))
    together = metrics[column].measure(images, PROMPTS)[column]
    alone = [metrics[column].measure([image], [text])[column][0] for image, text in zip(images, PROMPTS, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_thin_image_is_not_blown_up(metrics: dict[str, OpenClipMetric], monkeypatch: pytest.MonkeyPatch) -> None:
    """Resized by its shorter side, an image of 65,000 x 1 would take gigabytes; what the model sees are 100 x 1."""
    seen = []
    preprocess = metrics["clip"].preprocess
    monkeypatch.setattr(metrics["clip"], "preprocess", lambda image: seen.append(image.size) or preprocess(image))
    images = [Image.new("RGB", size, "red") for size in ((65_000, 1), (3, 40_000), (64, 48))]
    thin, other, plain = metrics["clip"].measure(images, PROMPTS)["clip"]
    assert seen == [(100, 1), (3, 300), (64, 48)] and all(-1 <= one <= 1 for one in (thin, other, plain))


@pytest.mark.parametrize("column", ["clip", "negclip"])
def test_own_caption_scores_above_another_scenes(metrics, column):
    drawn = draw_held_out(80, seed=3)
    captions = [examples.canonical(scene) for scene in drawn.scenes]
    own = score(metrics[column])(drawn.pixels, captions)
    other = score(metrics[column])(drawn.pixels.roll(1, 0), captions)
    assert (own > other).float().mean() >= 0.9


def test_negclip_minds_who_wears_which_colour_more_than_clip(metrics):
    drawn = draw_held_out(200, seed=4)
    right = {column: prefers_truth(score(metric), drawn, seed=1) for column, metric in metrics.items()}
    share = {column: sum(values) / len(values) for column, values in right.items()}
    assert share["negclip"] >= 0.8
    assert share["negclip"] > share["clip"] + 0.1


def test_unknown_words_and_long_texts_are_read(metrics):
    images = pictures(5, (64, 64), (64, 64))
    values = metrics["clip"].measure(images, ["a zebra on a red circle", "a red circle and " * 40])["clip"]
    assert all(-1 <= value <= 1 for value in values)


def test_counts_the_prompts_that_are_cut(metrics):
    length = metrics["clip"].model.context_length
    words = [" ".join(["red"] * count) for count in (1, length - 2, length - 1, 3 * length)]  # start and end are two
    assert metrics["clip"].truncated(words) == [False, False, True, True]
    assert metrics["clip"].truncated([]) == []
    assert f"reads {length} tokens" in metrics["clip"].note


def test_a_changed_weight_is_another_model(metrics):
    own = metrics["clip"].fingerprint
    assert own != metrics["negclip"].fingerprint
    assert OpenClipMetric(WEIGHTS / "clip", device="cpu", column="clip").fingerprint == own
    changed = OpenClipMetric(WEIGHTS / "clip", device="cpu", column="clip")
    changed.model.logit_scale.data += 1e-3
    assert changed.fingerprint != own


def test_nothing_in_nothing_out(metrics):
    assert metrics["negclip"].measure([], []) == {"negclip": []}


@pytest.mark.parametrize("checkpoint", ["", "no-such-owner/no-such-model"])
def test_missing_checkpoint_is_one_clear_line(tmp_path, monkeypatch, checkpoint):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RealignError, match=r"cannot load .*--preset tiny") as caught:
        OpenClipMetric(checkpoint or tmp_path, device="cpu", column="clip")
    assert "\n" not in str(caught.value)


def test_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "open_clip_config.json").write_text((WEIGHTS / "clip" / "open_clip_config.json").read_text())
    with pytest.raises(RealignError, match="cannot load"):
        OpenClipMetric(tmp_path, device="cpu", column="clip")
