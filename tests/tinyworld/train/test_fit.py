"""The training loop of the embedded models on a model small enough to check by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from realign_cli.tinyworld.train import fit as fit_module
from realign_cli.tinyworld.train.fit import fit

STEPS = 8


def train(work: Path, *, killed_at: int | None = None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def loss(step: int, rank: int) -> Tensor:
        if step == killed_at:
            raise KeyboardInterrupt
        batch = torch.randn(5, 3, generator=torch.Generator().manual_seed(step * 64 + rank))
        return model(batch).square().mean()

    fit(model, loss, steps=STEPS, learning_rate=0.1, work=work, ema=0.9)
    return model.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint and a line of the log after every step."""
    monkeypatch.setattr(fit_module, "_SAVE_EVERY_SECONDS", -1)
    monkeypatch.setattr(fit_module, "_LOG_EVERY_STEPS", 1)


@pytest.mark.usefixtures("frequent")
def test_a_killed_training_continues_to_the_weights_of_one_that_was_never_killed(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", killed_at=5)
    assert same(train(tmp_path / "killed"), whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))  # none was trained twice


@pytest.mark.usefixtures("frequent")
def test_a_loss_in_the_log_is_the_mean_of_the_steps_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the first after a continuation, which has seen fewer steps than the others."""
    monkeypatch.setattr(fit_module, "_LOG_EVERY_STEPS", 3)
    model = nn.Linear(1, 1)

    def loss(step: int, rank: int) -> Tensor:
        if step == killed_at:
            raise KeyboardInterrupt
        return 0 * model.weight.sum() + 2

    killed_at = 4
    with pytest.raises(KeyboardInterrupt):
        fit(model, loss, steps=6, learning_rate=0.1, work=tmp_path)
    killed_at = -1
    fit(model, loss, steps=6, learning_rate=0.1, work=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(3, 2), (6, 2)]


@pytest.mark.usefixtures("frequent")
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", killed_at=5)
    *_, last = sorted((tmp_path / "killed").rglob("state.safetensors"))
    last.write_bytes(last.read_bytes()[:-1])
    assert same(train(tmp_path / "killed"), whole)


@pytest.mark.usefixtures("frequent")
def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    whole = train(tmp_path)
    assert same(train(tmp_path, killed_at=0), whole)


def test_of_two_processes_that_train_together_one_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, torch
from pathlib import Path
from torch import nn
from realign_cli.tinyworld.train.fit import fit

torch.manual_seed(0)
model = nn.Linear(1, 1, bias=False)
for part, last in (("first", False), ("second", True)):
    fit(model, lambda step, rank: model.weight.sum() * (2 - 3 * rank), steps=2, learning_rate=0.1,
        work=Path({str(tmp_path)!r}) / part, weight_decay=0.0, last=last)
    (Path({str(tmp_path)!r}) / f"{{part}}-{{os.environ['RANK']}}").write_text(str(model.weight.item()))
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script)]
    root = str(Path(fit_module.__file__).parents[3])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": root})
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("*-*")} == {"first-0", "first-1", "second-0"}
    assert (tmp_path / "first-0").read_text() == (tmp_path / "first-1").read_text()
