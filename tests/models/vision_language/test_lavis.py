"""BLIP-2 through LAVIS: its own classes at a small size with random weights, where it is installed (docs/lavis.md).

Elsewhere only the way to it is tested.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realign_cli.errors import RealignError, UsageError
from realign_cli.models.vision_language import lavis as adapters

INSTALLED = importlib.util.find_spec("lavis") is not None
needs_lavis = pytest.mark.skipif(
    not INSTALLED, reason="salesforce-lavis needs an environment of its own: docs/lavis.md"
)
CAPTIONER, TEXT, MATCHING = (
    "blip2_opt/pretrain_opt2.7b",
    "blip2_feature_extractor/pretrain",
    "blip2_image_text_matching",
)
MATCHING += "/pretrain"
PROMPTS = ["a red circle", "a green ring and a blue square", "a pink cross"]
ZOO = Path(__file__).parents[2] / "lavis_zoo.py"


@pytest.mark.skipif(INSTALLED, reason="LAVIS is installed")
@pytest.mark.parametrize("command", [["caption-reward"], ["eval", "--metrics", "blip"]], ids=["caption-reward", "eval"])
def test_where_lavis_is_missing_one_line_says_where_it_can_be(realign, coarse, command):
    done = realign(*command, "--in", coarse, "--backend", "lavis")
    assert done.returncode == 1 and not done.stdout
    (line,) = (line for line in done.stderr.splitlines() if "lavis" in line)
    assert "No module named 'lavis'" in line
    assert line.endswith("it runs in an environment of its own: docs/lavis.md")


def test_the_way_to_lavis_needs_no_library_that_it_excludes():
    code = """
import json, sys
import realign_cli.models.vision_language.lavis, realign_cli.registry, realign_cli.stages.caption_reward
import realign_cli.evaluation.evaluate, realign_cli.evaluation.session, realign_cli.evaluation.report
import realign_cli.runs.runner
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert {"torch", "realign_cli"} <= loaded
    assert not loaded & {"diffusers", "transformers", "open_clip", "accelerate", "peft", "datasets", "openai"}


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for size in sizes
    ]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    import lavis_zoo

    folder = tmp_path_factory.mktemp("zoo")
    lavis_zoo.build(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder))
        patch.chdir(folder)
        patch.setattr(lavis_zoo.builder, "create_eva_vit_g", lavis_zoo.small_vision)
        yield folder


@needs_lavis
def test_captions_do_not_depend_on_the_batch(zoo):
    captioner = adapters.LavisCaptioner(CAPTIONER, device="cpu", num_beams=2, max_length=8)
    images = [*pictures((64, 64), (96, 80)), pictures((40, 70))[0].convert("RGBA")]
    together = captioner.caption(images)
    assert together == [captioner.caption([image])[0] for image in images]
    assert len(together) == 3 and all(isinstance(text, str) for text in together) and any(together)
    assert captioner.caption([]) == []


@needs_lavis
def test_text_features_are_those_that_lavis_extracts(zoo):
    encoder = adapters.LavisTextEncoder(TEXT, device="cpu")
    rows = encoder.encode(PROMPTS)
    expected = encoder.model.extract_features({"text_input": PROMPTS}, mode="text").text_embeds_proj[:, 0]
    assert rows.dtype == torch.float32 and torch.allclose(rows, expected, atol=1e-6)
    assert torch.allclose(rows.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(rows, torch.cat([encoder.encode([prompt]) for prompt in PROMPTS]), atol=1e-5)
    assert (rows[0] - rows[2]).abs().max() > 1e-3
    longer = [" ".join(["red circle"] * times) for times in (15, 300)]  # 30 words and two marks are what is read
    assert torch.allclose(*encoder.encode(longer), atol=1e-6)
    assert encoder.encode([]).shape == (0, 256)


@needs_lavis
def test_scores_are_those_of_the_features_and_do_not_depend_on_the_batch(zoo):
    metric = adapters.LavisMetric(MATCHING, device="cpu")
    images = pictures((64, 64), (96, 80), (33, 64))
    scores = metric.measure(images, PROMPTS)
    for i, (image, prompt) in enumerate(zip(images, PROMPTS, strict=True)):
        alone = metric.measure([image], [prompt])
        for column, values in scores.items():
            assert values[i] == pytest.approx(alone[column][0], abs=1e-5), column
        pixels = metric._image(image)[None]
        queries = metric.model.extract_features({"image": pixels}, mode="image").image_embeds_proj[0]
        text = metric.model.extract_features({"text_input": [prompt]}, mode="text").text_embeds_proj[0, 0]
        assert scores["blip_itc"][i] == pytest.approx((queries @ text).max().item(), abs=1e-5)
        assert 0 < scores["blip_itm"][i] < 1
    assert metric.measure(images, PROMPTS[::-1])["blip_itc"][0] != pytest.approx(scores["blip_itc"][0], abs=1e-4)
    assert metric.truncated([*PROMPTS, "a red " * 40]) == [False, False, False, True]
    assert metric.measure([], []) == {"blip_itc": [], "blip_itm": []}


@needs_lavis
def test_the_fingerprint_is_that_of_the_weights(zoo):
    torch.manual_seed(1)
    one = adapters.LavisMetric(MATCHING, device="cpu")
    torch.manual_seed(1)
    same = adapters.LavisMetric(MATCHING, device="cpu")
    other = adapters.LavisMetric(MATCHING, device="cpu")
    assert one.fingerprint == same.fingerprint != other.fingerprint


@needs_lavis
def test_what_lavis_cannot_load(zoo, monkeypatch, tmp_path):
    with pytest.raises(UsageError, match=r"LAVIS has no checkpoint 'blip2_opt/big'; .*blip2_opt/pretrain_opt2\.7b"):
        adapters.LavisCaptioner("blip2_opt/big", device="cpu")
    monkeypatch.chdir(tmp_path)  # where the small models are not
    with pytest.raises(RealignError, match=r"LAVIS cannot load blip2_opt/.*: docs/lavis\.md") as caught:
        adapters.LavisCaptioner(CAPTIONER, device="cpu")
    assert "\n" not in str(caught.value)


@needs_lavis
def test_records_flow_through_the_stage_and_the_metric(zoo, tmp_path):
    """The commands as processes of LAVIS's environment, on records that another one made."""
    lines = []
    for i, (image, prompt) in enumerate(zip(pictures((64, 64), (64, 64), (64, 64)), PROMPTS, strict=True)):
        image.save(tmp_path / f"{i}.png")
        lines.append({"file_name": str(tmp_path / f"{i}.png"), "text": prompt, "id": str(i), "seed": 7})

    def realign(*arguments, piped):
        command = [sys.executable, ZOO, zoo, *arguments, "--backend", "lavis"]
        done = subprocess.run(command, input=piped, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    piped = "".join(json.dumps(line) + "\n" for line in lines)
    rewarded = realign("caption-reward", "--set", "captioner.num_beams=2", piped=piped)
    found = [json.loads(line) for line in rewarded.splitlines()]  # and nothing but records on the standard output
    assert [{**line, "caption": None} for line in found] == [{**line, "caption": None} for line in lines]
    assert all(isinstance(line["caption"]["text"], str) and -1 <= line["caption"]["reward"] <= 1 for line in found)
    report = json.loads(realign("eval", "--metrics", "blip", "--json", piped=rewarded))
    assert [(row["metric"], row["value"]["n"]) for row in report["metrics"] if not row["category"]] == [
        ("blip_itc", 3),
        ("blip_itm", 3),
    ]
    assert report["settings"]["blip"]["checkpoint"] == MATCHING
