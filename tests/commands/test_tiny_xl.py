"""Preset `tiny-xl`: a trained generator of the shape of Stable Diffusion XL goes through both stages and the loop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.runs import Run, records, succeed

from realign_cli.tinyworld.scenes import training_prompts

XL = ("--preset", "tiny-xl", "-q")
ASKED = 12


@pytest.fixture(scope="module")
def here(realign: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with coarse/, images of prompts that the generator was trained on; read it only."""
    folder = tmp_path_factory.mktemp("xl")
    prompts = training_prompts()
    (folder / "prompts.txt").write_text("\n".join(prompts[:: len(prompts) // ASKED][:ASKED]))
    succeed(realign("generate", *XL, "--prompts", "prompts.txt", "--out", "coarse", cwd=folder))
    return folder


def test_it_draws_what_it_is_asked_for(realign: Run, here: Path) -> None:
    succeed(realign("eval", *XL, "--in", "coarse", "--metrics", "oracle", "--out", "judged", cwd=here))
    scores = [json.loads(line) for line in (here / "judged" / "scores.jsonl").read_text().splitlines()]
    assert sum(score["presence"] for score in scores) >= ASKED / 2


def test_the_loop_begins_with_the_same_image_and_mends_it(realign: Run, here: Path) -> None:
    succeed(realign("run", *XL, "--prompts", "prompts.txt", "--tries", 2, "--out", "loop", cwd=here))
    finals, coarse = records(here / "loop" / "final"), records(here / "coarse")
    mended = [one for one in finals if [made["how"] for made in one["tries"]["made"]] == ["draw", "mend"]]
    assert mended
    for one, before in zip(finals, coarse, strict=True):
        images = (here / "loop" / "final" / one["file_name"], here / "coarse" / before["file_name"])
        same = images[0].read_bytes() == images[1].read_bytes()
        assert same == (one["tries"]["kept"] == 0)


def test_a_lora_of_it_is_trained_and_belongs_to_it(realign: Run, here: Path) -> None:
    small = ("--rank", 4, "--max-train-steps", 1, "--set", "train.pretraining_images=32")
    succeed(realign("train", *XL, "--data", "shapes", *small, "--out", "lora", cwd=here))
    words = ("generate", "--prompts", "prompts.txt", "--model", "lora", "--out", "trained", "-q")
    refused = realign(*words, "--preset", "tiny", cwd=here)
    assert refused.returncode == 2
    assert "a LoRA of package:generator_xl; preset 'tiny' has package:generator" in refused.stderr
    succeed(realign(*words, "--preset", "tiny-xl", "--set", "generator.steps=2", cwd=here))
    assert len(records(here / "trained")) == ASKED


def test_it_knows_only_the_words_of_its_world(realign: Run, here: Path) -> None:
    refused = realign("train", *XL, "--data", "coco", "--out", "never", cwd=here)
    assert refused.returncode == 2 and "the embedded generator knows only the words" in refused.stderr
