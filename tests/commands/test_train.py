"""`realign train` as a user runs it: in processes that are killed, multiplied and given wrong input."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from accelerate.state import AcceleratorState
from PIL import Image
from typer.testing import CliRunner, Result

from realign_cli.app import app
from realign_cli.data.shards import WHOLE
from realign_cli.runs.lock import holders

Run = Callable[..., CompletedProcess[str]]

SMALL = {
    "sampler_steps": 4,
    "first_step": 1,
    "last_step": 3,
    "guidance": 1.0,
    "micro_batch_size": 2,
    "effective_batch_size": 4,
    "pretraining_images": 4,
    "checkpoint_every": 2,
    "sample_every": 4,
    "ema": 0.5,
}
STEPS = 6
ARGUMENTS = [
    *("train", "--data", "shapes", "--estimator", "reinforce", "--rank", "4", "--max-train-steps", STEPS, "-q"),
    *(word for key, value in SMALL.items() for word in ("--set", f"train.{key}={value}")),
    *("--set", "generator.steps=4"),
]


ON_POLICY = ("--estimator", "nft", "--set", "train.images_per_prompt=2")  # stands over what ARGUMENTS say


def command(program: Sequence[str], out: Path, *more: object) -> list[str]:
    return [*program, *map(str, [*ARGUMENTS, "--out", out, *more])]


def losses(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "samples_per_s"} for line in lines]


@pytest.fixture(autouse=True)
def _without_subcommand() -> Iterator[None]:
    """Every run in this process reads the environment anew, whatever one before it read or failed at."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def whole(program: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs."""
    out = tmp_path_factory.mktemp("train") / "whole"
    done = subprocess.run(command(program, out, "--report-to", "tensorboard"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def on_policy(program: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a run that learns from images of its own."""
    out = tmp_path_factory.mktemp("train") / "whole"
    done = subprocess.run(command(program, out, *ON_POLICY), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_an_image_of_its_own_is_captioned_and_judged(on_policy: Path):
    lines = losses(on_policy)
    steps = [line for line in lines if "grad_norm" in line]
    assert all({"caption_reward", "reward/caption", "loss/reward", "learnt", "moved"} <= set(line) for line in steps)
    assert any(line["moved"] > 0 for line in steps), "the average and the weights draw the same"
    sheets = [line for line in lines if "samples/things" in line]
    assert [line["step"] for line in sheets] == [0, 4, STEPS] and all(line["samples/judge/clip"] for line in sheets)


def test_what_is_left(whole: Path):
    names = {path.name for path in whole.iterdir()}
    assert {"pytorch_lora_weights.safetensors", "README.md", "curves.png", "log.jsonl", "run.json", "samples"} <= names
    card = (whole / "README.md").read_text()
    assert "base_model: package:generator" in card and "| train.rank | 4 |" in card and "456 prompts, shapes" in card
    steps = [line for line in losses(whole) if "grad_norm" in line]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert all({"caption_reward", "reward/caption", "loss/reward", "loss/pretraining"} <= set(line) for line in steps)


def test_a_tracker_gets_what_the_log_has(whole: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "realign"))
    events.Reload()
    for key in ("loss/reward", "caption_reward", "grad_norm"):
        logged = [(line["step"], line[key]) for line in losses(whole) if key in line]
        assert [(one.step, one.value) for one in events.Scalars(key)] == [(s, pytest.approx(v)) for s, v in logged]


def kill_at(program: Sequence[str], out: Path, moment: Callable[[], bool], *more: str) -> None:
    process = subprocess.Popen(command(program, out, *more), stderr=subprocess.PIPE, text=True)
    while not moment():
        assert process.poll() is None, f"ended before the moment came: {process.communicate()[1]}"
        time.sleep(0.001)
    os.kill(holders(out)[WHOLE].pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize(("undisturbed", "more"), [("whole", ()), ("on_policy", ON_POLICY)])
def test_killed_at_any_step_and_in_a_save_it_ends_the_same(
    program: list[str], request: pytest.FixtureRequest, tmp_path: Path, undisturbed: str, more: tuple[str, ...]
):
    """SIGKILL in a random step, then during a save; the run that goes on leaves the same bytes."""
    whole, out = request.getfixturevalue(undisturbed), tmp_path / "killed"
    log, staging = out / "log.jsonl", out / "checkpoints" / ".realign-000004.tmp"
    at = random.Random().randint(1, 3)
    kill_at(program, out, lambda: log.exists() and f'"step": {at}, "caption' in log.read_text(), *more)
    kill_at(program, out, staging.exists, *more)
    assert staging.exists() and not (out / "checkpoints" / "000004").exists()
    done = subprocess.run(command(program, out, *more), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(whole), f"killed at step {at}"
    for name in ("pytorch_lora_weights.safetensors", "checkpoints/000006/state.safetensors", "samples/000006.png"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), f"killed at step {at}"
    assert not staging.exists()


@pytest.mark.parametrize(("alone", "more"), [("whole", ()), ("on_policy", ON_POLICY)])
def test_two_processes_take_the_same_steps(
    python: str, request: pytest.FixtureRequest, tmp_path: Path, alone: str, more: tuple[str, ...]
):
    """The same effective batch on 2 processes over gloo; sums in another order differ in the last bits."""
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "realign_cli"]
    line = [sys.executable, *launch, *map(str, ARGUMENTS), "--out", str(tmp_path / "two"), *more]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHON_EXEC": python}  # by which torch starts the two
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for one, two in zip(losses(request.getfixturevalue(alone)), losses(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)


def test_the_result_is_used(whole: Path, coarse: Path, tmp_path: Path, realign: Run):
    prompts = coarse.parent / "prompts.txt"
    done = realign("generate", "--prompts", prompts, "--model", whole, "--out", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    changed = [(tmp_path / "new" / p.name).read_bytes() != p.read_bytes() for p in sorted(coarse.glob("*.png"))]
    assert any(changed)
    generator = json.loads((tmp_path / "new" / "run.json").read_text())["config"]["settings"]["generator"]
    assert generator["lora"] == str(whole) and len(generator["trained_sha256"]) == 64
    refined = realign("refine", "--in", tmp_path / "new", "--model", whole, "--out", tmp_path / "final")
    assert refined.returncode == 0, refined.stderr


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> Path:
    folder = tmp_path_factory.mktemp("here")
    (folder / "empty.txt").write_text("\n")
    (folder / "odd.jsonl").write_text('{"title": "a red circle", "url": "x"}\n')
    (folder / "whole").symlink_to(whole)
    (folder / "sd.toml").write_text('[generator]\nadapter = "a:b"\ncheckpoint = "other/model"\n')
    return folder


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--data empty.txt --out new", "empty.txt: no prompts in this file"),
        ("--data odd.jsonl --out new", "no 'prompt', 'text' or 'caption' with a string in it; keys found: title, url"),
        ("--data nowhere --out new", "--data nowhere: no such file or folder"),
        ("--data shapes --out empty.txt", "cannot make the folder empty.txt"),
        ("--data shapes --out /proc/new", "/proc/new: checkpoints take up to "),
        ("--data shapes --out whole", "whole: made with another configuration: "),
        ("--data shapes --out new --resume-from-checkpoint nowhere", "nowhere: not a complete checkpoint"),
        ("--data shapes --out new --resume-from-checkpoint whole/checkpoints/000006", "with another configuration"),
        ("--data shapes --out new --reward imagereward", "has no reward 'imagereward'; there are caption, clip, blip"),
        ("--data shapes --out new --reward caption=much", "'much' is no number; write NAME=WEIGHT,..."),
        ("--data shapes --out new --reward nowhere:Class", "--reward nowhere:Class: No module named 'nowhere'"),
        (
            "--data shapes --out new --set train.micro_batch_size=3",
            "32 is no multiple of train.micro_batch_size 3 x 1 processes",
        ),
        ("--data shapes --out new --terms-per-rollout 5", "5 terms per rollout, but only 4 steps to take them at"),
        ("--data shapes --out new --set train.ema=1.5", "preset 'tiny': train.ema: Input should be less than 1"),
        ("--data shapes --out new --report-to wandb", "--report-to wandb: pip install wandb"),
    ],
)  # fmt: skip
def test_mistakes(here: Path, monkeypatch: pytest.MonkeyPatch, line: str, complaint: str):
    monkeypatch.chdir(here)
    before = sorted((here / "whole").iterdir())
    done = CliRunner().invoke(app, ["train", *line.split()])
    assert done.exit_code in (1, 2)
    assert complaint in done.stderr and done.stderr.count("\n") <= 2, done.stderr
    assert sorted((here / "whole").iterdir()) == before


@pytest.mark.parametrize(
    ("name", "value"), [("LOCAL_RANK", "0"), ("ACCELERATE_DYNAMO_BACKEND", "foo"), ("ACCELERATE_USE_DEEPSPEED", "true")]
)
def test_what_the_environment_says_of_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    monkeypatch.setenv(name, value)
    command = ["train", "--data", "shapes", "--out", str(tmp_path / "new"), "--mixed-precision", "no"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("realign train: cannot start as the environment says: ")
    assert f"; unset {name}, or start with accelerate launch" in done.stderr


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--model .", "--model .: neither pytorch_lora_weights.safetensors nor model_index.json in it"),
        ("--model whole --preset sd.toml", "--model whole: a LoRA of package:generator; preset 'sd' has other/model"),
    ],
)
def test_models_that_do_not_fit(here: Path, realign: Run, line: str, complaint: str):
    (here / "prompts.txt").write_text("a red circle\n")
    done = realign("generate", "--prompts", "prompts.txt", "--out", "new", *line.split(), cwd=here)
    assert done.returncode == 2 and complaint in done.stderr


def test_images_that_cannot_be_read_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One line names them, the model card too; the run that goes on leaves out the same, whatever lies there now."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    names = ["a.png", "cut.png", "gone.png", "d.png"]
    for name in ("a.png", "cut.png", "d.png"):
        Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "data" / name)
    whole = (tmp_path / "data" / "cut.png").read_bytes()
    (tmp_path / "data" / "cut.png").write_bytes(whole[: len(whole) // 2])
    lines = [json.dumps({"file_name": name, "text": "a red square", "id": name}) + "\n" for name in names]
    (tmp_path / "data" / "metadata.jsonl").write_text("".join(lines))

    def train(steps: int, out: str) -> Result:
        return CliRunner().invoke(
            app,
            [
                *("train", "--data", "data", "--out", out, "--rank", "4", "--max-train-steps", str(steps)),
                *(word for key, value in SMALL.items() for word in ("--set", f"train.{key}={value}")),
                *("--set", "generator.steps=4", "--set", "train.effective_batch_size=2"),
            ],
        )

    said = "2 of 4 training images cannot be used and are left out: "
    place = "data/metadata.jsonl"
    done = train(2, "out")
    assert done.exit_code == 0, done.stderr
    assert said in " ".join(done.stderr.split()) and f"{place}:2" in done.stderr and f"{place}:3" in done.stderr
    assert f"| images left out | 2: {place}:" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "data" / "cut.png").write_bytes(whole)
    again = train(4, "out")
    assert again.exit_code == 0 and said in " ".join(again.stderr.split()), again.stderr
    assert f"| images left out | 2: {place}:" in (tmp_path / "out" / "README.md").read_text()

    for name in ("a.png", "cut.png", "d.png"):
        (tmp_path / "data" / name).write_bytes(whole[:100])
    none = train(1, "none")
    assert none.exit_code == 2 and "4 of 4 training images cannot be used" in none.stderr, none.stderr


def test_a_run_of_an_earlier_version_is_refused_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Version 0.1.0 named settings of [train] otherwise, and had another captioner: another reward."""
    shutil.copytree(Path(__file__).parent / "trained_by_0_1_0", tmp_path / "trained")
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in Path("trained").rglob("*") if path.is_file()}
    shutil.copy("trained/prompts.txt", "prompts.txt")
    done = CliRunner().invoke(app, ["train", "--data", "prompts.txt", "--estimator", "nft", "--out", "trained", "-q"])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert "realign train: trained: made with another configuration: " in done.stderr
    assert done.stderr.endswith("more; --overwrite starts over\n")
    assert {path: path.read_bytes() for path in Path("trained").rglob("*") if path.is_file()} == before


KNOWS = "the embedded generator knows only the words of coloured shapes"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("coco", f"--data coco: {KNOWS}; give --data shapes, or another --preset"),  # nothing was asked of the hub
        (
            "captions.json",
            f"--data captions.json: {KNOWS}, and not 'man' of 'A man on a red square.'; give --data shapes",
        ),
        ("mine.txt", f"--data mine.txt: {KNOWS}, and not 'dog' of 'a blue dog'; give --data shapes"),
    ],
)
def test_the_embedded_generator_is_not_trained_on_words_that_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, complaint: str
):
    monkeypatch.chdir(tmp_path)
    captions = [{"caption": "a red circle"}, {"caption": "A man on a red square."}]
    (tmp_path / "captions.json").write_text(json.dumps({"annotations": captions}))
    (tmp_path / "mine.txt").write_text("A red circle, and an orange ring.\na blue dog\n")
    done = CliRunner().invoke(app, ["train", "--data", data])
    assert (
        done.exit_code == 2 and done.stderr.startswith(f"realign train: {complaint}") and done.stderr.count("\n") == 1
    )
    assert not (tmp_path / "runs").exists()


def test_coco_without_a_network_names_three_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["train", "--data", "coco", "--preset", "sd15"])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    for way in (
        "a file of captions, such as COCO's captions_train2014.json",
        "HF_ENDPOINT",
        "--data shapes --preset tiny",
    ):
        assert way in done.stderr
    assert not (tmp_path / "runs").exists()
