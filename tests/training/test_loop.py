"""The runner of `train` on a method small enough to see through: two weights that learn two numbers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch.nn import Parameter

from realign_cli import presets
from realign_cli.errors import RealignError, UsageError
from realign_cli.registry import Models
from realign_cli.training import checkpoint
from realign_cli.training.loop import LOG, fit, prepare_run

if TYPE_CHECKING:
    from realign_cli.settings import Training

TRAINING = replace(
    Models(presets.load("tiny")).training,
    max_train_steps=6,
    micro_batch_size=1,
    learning_rate=0.1,
    max_grad_norm=1.0,
    ema=0.5,
    checkpoint_every=2,
    sample_every=3,
)
CONFIG = {"train": {"rank": 4}}


@dataclass(frozen=True)
class Loss:
    value: torch.Tensor
    log: Mapping[str, float]


class Toy:
    """Moves `weight` towards (1, 2) with noise that depends on (step, micro-batch) alone."""

    def __init__(self, *, broken: frozenset[int] = frozenset(), ugly_from: int = 99, dies_at: int = 99) -> None:
        self.weight = Parameter(torch.zeros(2))
        self._broken, self._ugly_from, self._dies_at = broken, ugly_from, dies_at
        self.samples = 0

    def trainable_parameters(self) -> dict[str, Parameter]:
        return {"weight": self.weight}

    def terms(self, step: int, index: int, averaged: object) -> Iterator[Callable[[], Loss]]:
        if step == self._dies_at:
            raise KeyboardInterrupt
        noise = torch.randn(2, generator=torch.Generator().manual_seed(100 * step + index))
        for scale in (1.0, 2.0):

            def term(scale: float = scale) -> Loss:
                value = scale * ((self.weight - torch.tensor([1.0, 2.0]) + 0.1 * noise) ** 2).sum()
                value = value * (float("nan") if step in self._broken else 1.0)
                return Loss(value, {"loss": value.item()})

            yield term

    def sample(self) -> tuple[Image.Image, dict[str, float]]:
        self.samples += 1
        return Image.new("RGB", (4, 4)), {"richness": 0.0 if self.samples > self._ugly_from else 1.0}

    def collapsed(self, now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
        return ["richness fell"] if now["richness"] < before["richness"] else []

    def save(self, folder: Path) -> None:
        (folder / "model.json").write_text(json.dumps(self.weight.tolist()))


def run(
    toy: Toy, out: Path, training: Training = TRAINING, *, resume: str = "latest", stop_on_collapse: bool = False
) -> None:
    accelerator = Accelerator(cpu=True)
    last = prepare_run(accelerator, out, CONFIG, resume, overwrite=False)
    fit(
        toy,
        accelerator,
        training,
        out,
        CONFIG,
        last,
        micro_batches=2,
        stop_on_collapse=stop_on_collapse,
        quiet=True,
    )


def losses(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "samples_per_s"} for line in lines]


def files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != LOG}


def test_it_learns_and_leaves_the_average(tmp_path: Path):
    toy = Toy()
    run(toy, tmp_path, replace(TRAINING, max_train_steps=60))
    assert toy.weight.tolist() == pytest.approx([1, 2], abs=0.3)
    average = json.loads((tmp_path / "model.json").read_text())
    assert average == pytest.approx([1, 2], abs=0.3) and average != toy.weight.tolist()
    assert [p.name for p in sorted((tmp_path / "samples").iterdir())][:3] == ["000000.png", "000003.png", "000006.png"]


@pytest.mark.parametrize("dies_at", [0, 1, 2, 3, 5])
def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path: Path, dies_at: int):
    run(Toy(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(Toy(dies_at=dies_at), tmp_path / "torn")
    run(Toy(), tmp_path / "torn")
    assert losses(tmp_path / "torn") == losses(tmp_path / "whole")
    whole, torn = files(tmp_path / "whole"), files(tmp_path / "torn")
    assert torn == whole and "checkpoints/000006/state.safetensors" in whole


def test_a_finished_run_goes_on_if_asked_for_more(tmp_path: Path):
    run(Toy(), tmp_path / "more")
    run(Toy(), tmp_path / "more", replace(TRAINING, max_train_steps=8))
    run(Toy(), tmp_path / "once", replace(TRAINING, max_train_steps=8))
    assert (tmp_path / "more" / "model.json").read_text() == (tmp_path / "once" / "model.json").read_text()


def test_a_checkpoint_of_another_run_goes_on_in_a_new_folder(tmp_path: Path):
    """To the same weights, with the log of the steps before it; where no step is left, that is said."""
    run(Toy(), tmp_path / "whole", replace(TRAINING, max_train_steps=8))
    run(Toy(), tmp_path / "first")
    for step in (4, 6):
        out = tmp_path / f"from_{step}"
        saved = str(tmp_path / "first" / "checkpoints" / f"{step:06d}")
        run(Toy(), out, replace(TRAINING, max_train_steps=8), resume=saved)
        assert (out / "model.json").read_text() == (tmp_path / "whole" / "model.json").read_text()
        steps = [line for line in losses(out) if "grad_norm" in line]
        assert steps == [line for line in losses(tmp_path / "whole") if "grad_norm" in line]
    with pytest.raises(UsageError, match=r"000006: saved after step 6; nothing is left of --max-train-steps, raise it"):
        run(Toy(), tmp_path / "none", resume=saved)


def test_a_step_without_a_finite_gradient_changes_nothing(tmp_path: Path):
    run(Toy(broken=frozenset({3})), tmp_path / "with")
    log = losses(tmp_path / "with")
    assert [line["skipped"] for line in log if "skipped" in line] == [0, 0, 0, 1, 1, 1]
    broken = next(line for line in log if line["step"] == 4)
    assert broken["loss"] is None and broken["grad_norm"] is None
    two = checkpoint.read(tmp_path / "with" / "checkpoints" / "000004").tensors()
    assert all(tensor.isfinite().all() for tensor in two.values())
    run(Toy(), tmp_path / "without", replace(TRAINING, max_train_steps=3, checkpoint_every=3))
    assert torch.equal(
        two["weights.weight"],
        checkpoint.read(tmp_path / "without" / "checkpoints" / "000003").tensors()["weights.weight"],
    )


def test_many_in_a_row_end_the_run(tmp_path: Path):
    with pytest.raises(RealignError, match="no finite gradient in 5 steps up to step 8; nothing of them is kept"):
        run(Toy(broken=frozenset(range(3, 10))), tmp_path, replace(TRAINING, max_train_steps=10))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["000004", "000006"]
    for name in ("000004", "000006"):
        weights = checkpoint.read(tmp_path / "checkpoints" / name).tensors()["weights.weight"]
        assert torch.equal(weights.isfinite(), torch.tensor([True, True]))


def test_collapse_is_told_and_stops_only_if_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="realign_cli.training.loop"):
        run(Toy(ugly_from=1), tmp_path / "on")
    assert "step 3, the samples may be collapsing: richness fell" in caplog.text
    with pytest.raises(RealignError, match="stopped at step 3, the images collapse: richness fell"):
        run(Toy(ugly_from=1), tmp_path / "off", stop_on_collapse=True)
    assert (tmp_path / "off" / "checkpoints" / "000003").is_dir()


def test_another_configuration_is_refused(tmp_path: Path):
    run(Toy(), tmp_path / "a")
    accelerator = Accelerator(cpu=True)
    with pytest.raises(UsageError, match=r"made with another configuration: train.rank \(4 before, 8 now\)"):
        prepare_run(accelerator, tmp_path / "a", {"train": {"rank": 8}}, "latest", overwrite=False)
    other = str(tmp_path / "a" / "checkpoints" / "000006")
    with pytest.raises(UsageError, match=r"000006: made with another configuration: train.rank"):
        prepare_run(accelerator, tmp_path / "b", {"train": {"rank": 8}}, other, overwrite=False)


def test_starting_over_leaves_what_is_not_ours(tmp_path: Path):
    run(Toy(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    prepare_run(Accelerator(cpu=True), tmp_path, {"train": {"rank": 8}}, "latest", overwrite=True)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"notes.txt", "run.json"}
