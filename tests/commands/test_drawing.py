"""Steps, guidance and size as options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from realign_cli.app import app


def test_an_image_that_is_no_square_is_drawn_and_refined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a red circle and a blue square\n")
    drawing = ["--steps", "6", "--guidance", "2.5", "--size", "96x64"]
    done = CliRunner().invoke(app, ["generate", "--prompts", "prompts.txt", "--out", "coarse", *drawing])
    assert done.exit_code == 0, done.stderr
    (line,) = Path("coarse/metadata.jsonl").read_text().splitlines()
    assert json.loads(line)["cost"] == {"passes": 1.0, "steps": 6.0}
    settings = json.loads(Path("coarse/run.json").read_text())["config"]["settings"]["generator"]
    assert (settings["steps"], settings["guidance"], settings["size"]) == (6, 2.5, "96x64")
    next_ = "realign refine --in coarse --out final/ --steps 6 --guidance 2.5 --size 96x64 --preset tiny"
    assert next_ in " ".join(done.stderr.split())
    done = CliRunner().invoke(app, next_.split()[1:])
    assert done.exit_code == 0, done.stderr
    assert [Image.open(f"{folder}/000000.png").size for folder in ("coarse", "final")] == [(96, 64)] * 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["--size", "96x60"],
            "--size: Input should be 512, or WIDTHxHEIGHT, in multiples of 8 from 8 to 8192, not '96x60'",
        ),
        (["--size", "large"], "--size: Input should be 512, or WIDTHxHEIGHT"),
        (["--guidance", "nan"], "--guidance: Input should be a finite number"),
        (["--steps", "0"], "--steps: Input should be greater than or equal to 1, not 0"),
    ],
)
@pytest.mark.parametrize("command", [["generate", "--prompts", "p.txt"], ["refine"], ["run", "--prompts", "p.txt"]])
def test_what_cannot_be_drawn_is_refused_in_one_line(command: list[str], words: list[str], complaint: str) -> None:
    done = CliRunner().invoke(app, [*command, "--out", "none", *words])
    assert done.exit_code == 2 and complaint in done.stderr and done.stderr.count("\n") == 1
