"""The published checkpoints of preset sd15, each command once: for a computer that has a GPU and has fetched them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from realign_cli import presets
from realign_cli.commands.download import is_fetched

PUBLISHED = Path(presets.__file__).parent / "sd15.toml"
SMALL = {"effective_batch_size": 2, "micro_batch_size": 1, "pretraining_images": 2, "sample_every": 1}


def _reason() -> str:
    if not torch.cuda.is_available():
        return "needs a GPU"
    missing = [one.name for one in presets.load("sd15").checkpoints if one.kind == "model" and not is_fetched(one)]
    return f"run 'realign download' first; missing: {', '.join(missing)}" if missing else ""


pytestmark = [pytest.mark.hub, pytest.mark.skipif(bool(_reason()), reason=_reason())]


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sd15, but scored by rules, so that no language model is asked."""
    rules = '[scorer]\nadapter = "realign_cli.models.language.rule_scorer:RuleScorer"\ncheckpoint = ""\n\n'
    text, replaced = re.subn(r"\[scorer\].*?\n\n", rules, PUBLISHED.read_text(), flags=re.DOTALL)
    assert replaced == 1
    file = tmp_path_factory.mktemp("preset") / "sd15.toml"
    file.write_text(text)
    return file


def test_coarse_to_fine(realign: Callable[..., CompletedProcess[str]], preset: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red book and a yellow vase\na photo of a dog on a skateboard\n")

    def run(*arguments: str) -> str:
        done = realign(*arguments, "--preset", str(preset), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("generate", "--prompts", "prompts.txt", "--out", "coarse")
    run("caption-reward", "--in", "coarse", "--out", "read")
    run("tag", "--in", "coarse", "--out", "tagged")
    run("score", "--in", "tagged", "--out", "scored")
    run("segment", "--in", "scored", "--out", "segmented")
    run("refine", "--in", "segmented", "--out", "final")
    _, dog = map(json.loads, (tmp_path / "final" / "metadata.jsonl").read_text().splitlines())
    assert "dog" in {tag["label"] for tag in dog["tags"]}
    assert any(found["label"] == "dog" and found["mask"] for found in dog["objects"])
    read = [json.loads(line) for line in (tmp_path / "read" / "metadata.jsonl").read_text().splitlines()]
    assert "dog" in read[1]["caption"]["text"]
    table = run("eval", "--in", "final", "--baseline", "coarse", "--metrics", "clip,negclip,blip")
    assert all(column in table for column in ("clip", "negclip", "blip_itc", "blip_itm"))


def test_two_steps_of_training(realign: Callable[..., CompletedProcess[str]], preset: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red book\na photo of a dog\n")
    settings = [word for key, value in SMALL.items() for word in ("--set", f"train.{key}={value}")]
    limits = ("--rank", "4", "--max-train-steps", "2")
    done = realign(
        "train", "--data", "prompts.txt", "--out", "run", "--preset", preset, *limits, *settings, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) >= 2
