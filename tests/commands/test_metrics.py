"""A metric of the user's own, from a module on the import path, through the real `realign eval`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from realign_cli.app import app

MODULE = '''
class Red:
    """How red an image is, from 0 to 1; every batch is noted."""

    note = "mean of the red channel, 0 to 1"
    asked = []

    def __init__(self, checkpoint="", *, device="cpu", fingerprint="red 1"):
        self.fingerprint = fingerprint

    def measure(self, images, prompts):
        self.asked.append(len(images))
        return {"red": [image.resize((1, 1)).getpixel((0, 0))[0] / 255 for image in images]}

    def truncated(self, prompts):
        return [len(prompt) > 12 for prompt in prompts]


class Raises(Red):
    def measure(self, images, prompts):
        raise KeyError("weights")


class Cuts(Red):
    def truncated(self, prompts):
        return [False]


class Short(Red):
    def measure(self, images, prompts):
        return {"short": [0.5]}


class Endless(Red):
    def measure(self, images, prompts):
        return {"endless": [float("nan")] * len(images)}


class Wordy(Red):
    def measure(self, images, prompts):
        return {"wordy": ["much"] * len(images)}


class Taken(Red):
    def measure(self, images, prompts):
        return {"clip": [0.5] * len(images)}


class Fickle(Red):
    def measure(self, images, prompts):
        self.asked.append(len(images))
        return {f"fickle {len(self.asked)}": [0.5] * len(images)}


class Unmarked(Red):
    @property
    def fingerprint(self):
        raise OSError("no weights.")

    @fingerprint.setter
    def fingerprint(self, value):
        pass


class Stern(Red):
    def __init__(self, checkpoint, *, device):
        raise RuntimeError("no licence")


class Silent:
    def __init__(self, checkpoint, *, device):
        pass

    def measure(self, images, prompts):
        return {}


def bare(images):
    return images
'''


Eval = Callable[..., Result]


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Eval:
    """`realign eval --in` a folder of two images, red and black, in this process."""
    (tmp_path / "mymetrics.py").write_text(MODULE)
    (tmp_path / "torn.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mymetrics", raising=False)
    source = tmp_path / "source"
    source.mkdir()
    lines = []
    for name, colour in (("red", (255, 0, 0)), ("black", (0, 0, 0))):
        Image.new("RGB", (64, 64), colour).save(source / f"{name}.png")
        lines.append(json.dumps({"id": name, "text": f"a {name} circle", "file_name": f"{name}.png"}) + "\n")
    (source / "metadata.jsonl").write_text("".join(lines))

    def run(*arguments: object) -> Result:
        line = ["eval", "--in", source, "--device", "cpu", "--cache", tmp_path / "cache", *arguments]
        return CliRunner().invoke(app, [str(word) for word in line])

    return run


def asked() -> list[int]:
    return list(sys.modules["mymetrics"].Red.asked)


def test_a_metric_of_ones_own_beside_the_presets(evaluate: Eval, tmp_path: Path) -> None:
    line = ("--metrics", "mymetrics:Red,oracle", "--out", tmp_path / "out")
    done = evaluate(*line)
    assert (done.exit_code, done.stderr) == (0, "")
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["judges"]["mymetrics:Red"] == {
        "note": "mean of the red channel, 0 to 1",
        "fingerprint": "red 1",
        "prompts_cut": 1,
    }
    assert report["settings"]["mymetrics:Red"] == {"adapter": "mymetrics:Red"}
    assert report["settings"]["oracle"]["adapter"] == "Oracle"
    scores = [json.loads(text) for text in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert {one["id"]: one["red"] for one in scores} == {"red": 1, "black": 0}
    assert all("binding" in one for one in scores)
    assert asked() == [2]
    again = evaluate(*line)
    assert (again.exit_code, again.stdout) == (0, done.stdout)
    assert asked() == [2]  # remembered by its fingerprint


def test_a_section_of_a_preset_whose_adapter_measures_is_a_metric(evaluate: Eval, tmp_path: Path) -> None:
    section = '[mine]\nadapter = "mymetrics:Red"\nfingerprint = "first"\n[other]\nadapter = "mymetrics:Silent"\n'
    (tmp_path / "mine.toml").write_text(section)
    done = evaluate("--preset", tmp_path / "mine.toml", "--json")  # without --metrics: all of the preset
    assert (done.exit_code, done.stderr) == (0, "")
    assert set(json.loads(done.stdout)["judges"]) == {"mine"}
    assert asked() == [2]
    changed = evaluate("--preset", tmp_path / "mine.toml", "--metrics", "mine", "--set", "mine.fingerprint=next")
    assert changed.exit_code == 0
    assert asked() == [2, 2]
    unknown = evaluate("--preset", tmp_path / "mine.toml", "--metrics", "other")
    assert unknown.exit_code == 2
    complaint = "realign eval: --metrics other: no such metric in this preset; there are mine, or module:Class\n"
    assert unknown.stderr == complaint


@pytest.mark.parametrize(
    ("metrics", "code", "complaint"),
    [
        ("mymetrics:Raises", 1, "metric mymetrics:Raises: KeyError: 'weights'; -v shows where it failed"),
        ("mymetrics:Cuts", 1, "metric mymetrics:Cuts: 1 values in truncated for 2 images"),
        ("mymetrics:Short", 1, "metric mymetrics:Short: 1 values in column 'short' for 2 images"),
        ("mymetrics:Endless", 1, "metric mymetrics:Endless: nan in column 'endless' for the prompt 'a red circle'"),
        ("mymetrics:Wordy", 1, "metric mymetrics:Wordy: ValueError: could not convert string to float: 'much'"),
        ("mymetrics:Red,mymetrics:Unmarked", 1, "metric mymetrics:Unmarked: OSError: no weights; -v shows"),
        ("clip,mymetrics:Taken", 1, "metrics clip and mymetrics:Taken both have a column 'clip'"),
        ("mymetrics:Stern", 2, "--metrics mymetrics:Stern: cannot build it (RuntimeError: no licence)"),
        ("mymetrics:Silent", 2, "--metrics mymetrics:Silent is no metric: it has no note, fingerprint, truncated"),
        ("mymetrics:bare", 2, "--metrics mymetrics:bare: got an unexpected keyword argument 'device'"),
        ("mymetrics:Blue", 2, "--metrics mymetrics:Blue: module 'mymetrics' has no attribute 'Blue'"),
        ("nowhere:Red", 2, "--metrics nowhere:Red: No module named 'nowhere'"),
        ("torn:Red", 2, "--metrics torn:Red: cannot import torn (ZeroDivisionError: division by zero)"),
        (
            "mine",
            2,
            "--metrics mine: no such metric in this preset; there are fid, clip, negclip, blip, oracle, or ",
        ),
    ],
)
def test_a_metric_that_is_wrong_is_named_in_one_line(evaluate: Eval, metrics: str, code: int, complaint: str) -> None:
    done = evaluate("--metrics", metrics)
    assert done.exit_code == code, done.stderr
    assert done.stderr.startswith(f"realign eval: {complaint}")
    assert done.stderr.count("\n") == 1


def test_columns_that_change_are_told(evaluate: Eval) -> None:
    done = evaluate("--metrics", "mymetrics:Fickle", "--batch-size", 1)
    assert done.exit_code == 1
    complaint = "metric mymetrics:Fickle: its columns were fickle 1 and are fickle 2; they stay the same as long as"
    assert done.stderr.startswith(f"realign eval: {complaint}")
