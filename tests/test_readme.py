"""The commands that the README and the examples show run as they are shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def blocks() -> list[str]:
    """The indented blocks of the README."""
    return [block.strip("\n") for block in re.findall(r"(?:^ {4}.*\n)+", README.read_text(), flags=re.MULTILINE)]


# Of a newcomer, who has chosen no preset.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "REALIGN_PRESET"}


def bash(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Bash in `folder`, with this environment's `realign` and `python` first."""
    done = subprocess.run(
        ["bash", *arguments],
        cwd=folder,
        env=ENVIRONMENT | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_pipeline(tmp_path: Path) -> None:
    script = next(block for block in blocks() if "realign tag" in block)
    done = bash(tmp_path, "-euo", "pipefail", "-c", script)
    assert "all_correct" in done.stdout
    assert (tmp_path / "final" / "pictures" / "contact_sheet.png").exists()


def test_the_loop(tmp_path: Path) -> None:
    """As shown, with the embedded models chosen as above it."""
    (tmp_path / "prompts.jsonl").write_text(
        '{"prompt": "a red circle and a blue square"}\n{"prompt": "a pink cross"}\n'
    )
    script = next(block for block in blocks() if "realign run" in block)
    done = bash(tmp_path, "-euo", "pipefail", "-c", f"export REALIGN_PRESET=tiny\n{textwrap.dedent(script)}")
    assert re.search(r"cost \(in\): .*  n 2; tries \d+\.\d\d s\n", done.stdout)
    assert re.search(r"cost \(baseline\): 1.00 passes .*  n 2; generate \d+\.\d\d s\n", done.stdout)
    lines = (tmp_path / "out" / "final" / "metadata.jsonl").read_text().splitlines()
    assert len(lines) == 2 and all('"tries": ' in line for line in lines)
    assert "open out/report.html" in done.stderr and (tmp_path / "out" / "report.html").exists()


def test_coarse_to_fine(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a red circle and a blue square\na pink cross\n")
    done = bash(tmp_path, str(ROOT / "examples" / "coarse_to_fine.sh"), "mine.txt", "out")
    assert "all_correct" in done.stdout
    assert (tmp_path / "out" / "eval" / "metrics.json").exists()
    for folder in ("coarse", "final"):
        assert len((tmp_path / "out" / folder / "metadata.jsonl").read_text().splitlines()) == 2


def test_the_method(tmp_path: Path) -> None:
    """As shown, on the embedded models as it says below, but for one short step of training."""
    script = next(block for block in blocks() if "realign train" in block)
    train, generate, refine, judge = textwrap.dedent(script).splitlines()
    assert (train, judge) == ("realign train --data coco", "realign eval --metrics fid,clip,negclip,blip")
    plain = "realign refine --in coarse/ --out final/"
    assert refine == f"{plain} --model runs/coarse"
    small = {"effective_batch_size": 2, "micro_batch_size": 2, "pretraining_images": 2}
    settings = " ".join(f"--set train.{key}={value}" for key, value in small.items())
    train = f"realign train --data shapes --max-train-steps 1 {settings}"
    (tmp_path / "prompts.txt").write_text("a red circle and a blue square\na pink cross\n")
    for lines in ([train, generate, refine, judge], ["rm -r final", plain, judge]):  # without --model it runs too
        done = bash(tmp_path, "-euo", "pipefail", "-c", "\n".join(["export REALIGN_PRESET=tiny", *lines]))
        assert ("carelessly captioned; training into runs/coarse" in done.stderr.replace("\n", "")) == (train in lines)
        assert "no --in: reading final/, with coarse/ as the baseline" in done.stderr
        table = {words[0]: words for line in done.stdout.splitlines() if (words := line.split())}
        for metric in ("clip", "negclip", "blip_itc", "blip_itm"):
            assert len(table[metric]) == 16, (
                metric
            )  # n, mean, baseline, difference, win rate, three intervals, won/lost
        assert "fid (in): " in done.stdout and "fid (baseline): " in done.stdout
        assert "n 2 against 5000, 63-d" in done.stdout and "biased upwards" in done.stdout
        assert "reference package:reference" in done.stdout


def test_the_picture() -> None:
    (picture,) = re.findall(r"^!\[.+\]\((.+)\)$", README.read_text(), flags=re.MULTILINE)
    assert (ROOT / picture).stat().st_size < 300_000
    with Image.open(ROOT / picture) as image:
        assert image.format == "PNG" and image.width > 1000
    assert len(README.read_text().splitlines()) <= 90


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_preset_and_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    command = [sys.executable, "-m", "realign_cli", "generate", "--prompts", "prompts.txt", "--out", "coarse"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1
    wanted = "realign generate: preset 'sd15' wants a GPU and none is present; --preset tiny runs on a CPU without a "
    assert " ".join(done.stderr.split()).startswith(wanted)


def test_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "realign_cli", "demo"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    demo = tmp_path / "realign-demo"
    assert {path.name for path in demo.iterdir()} == {"prompts.txt", "coarse", "final", "eval", "report.html"}
    assert done.stderr.endswith("open realign-demo/report.html\n")
    assert (demo / "final" / "pictures" / "contact_sheet.png").exists()
    assert len((demo / "final" / "metadata.jsonl").read_text().splitlines()) == 16
