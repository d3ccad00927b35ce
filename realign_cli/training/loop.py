"""The runner of `train`: optimiser steps, on one process or several, with checkpoints, a log and sample sheets.

A method says what is trained and builds its losses from (step, micro-batch); nothing else is random. So a run that was
killed continues from its last checkpoint to the weights that it would have had, and the same micro-batches spread over
more processes give the same steps up to rounding.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save
from torch import Tensor

from realign_cli.console import ReportStep, progress, training_progress
from realign_cli.errors import RealignError, UsageError
from realign_cli.files import atomic
from realign_cli.runs.folder import RUN, open_run, require_same
from realign_cli.training import checkpoint

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.nn import Parameter

    from realign_cli.settings import Training

log = logging.getLogger(__name__)

# Files and folders of a run, beside its checkpoints and the trained model.
LOG, SAMPLES, CARD, CURVES = "log.jsonl", "samples", "README.md", "curves.png"
LATENTS, PENALTIES = "examples.safetensors", "penalties.safetensors"
_PATIENCE = 5  # optimiser steps in a row without a finite gradient that end the run
# The environment variables by which a launcher tells a process its place among others.
_LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Loss(Protocol):
    """A scalar with gradient, and numbers for the log."""

    @property
    def value(self) -> Tensor: ...
    @property
    def log(self) -> Mapping[str, float]: ...


class TrainingMethod(Protocol):
    """What is trained, and towards what."""

    def trainable_parameters(self) -> Mapping[str, Parameter]:
        """The weights that training changes, by name."""
        ...

    def terms(
        self, step: int, index: int, averaged: Callable[[], AbstractContextManager[None]]
    ) -> Iterator[Callable[[], Loss]]:
        """Functions that build the losses of one micro-batch, to be called in order and added up.

        While a block of `averaged()` lasts, the weights are their average, if one is kept.
        """
        ...

    def sample(self) -> tuple[Image, dict[str, float]]:
        """A sheet of images of fixed prompts, and numbers that describe them."""
        ...

    def collapsed(self, now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
        """What is wrong with the samples, in words."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model as `--model` reads it."""
        ...


def make_accelerator(out: Path, cpu: bool, mixed_precision: str, tracker: str) -> Accelerator:
    """This process's place in the run, alone or under `accelerate launch`; `tracker` is "none" or one of accelerate's.

    Raises:
        UsageError: the tracker's package is not installed, the precision does not go with the device, or the
            environment describes other processes wrongly.
    """
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise UsageError(f"--report-to {tracker}: pip install {tracker}")
    try:
        return Accelerator(
            cpu=cpu,
            mixed_precision=mixed_precision,
            log_with=None if tracker == "none" else tracker,
            project_dir=out,
        )
    except (ValueError, ImportError, RuntimeError) as error:
        if f"{mixed_precision} mixed precision" in str(error):
            raise UsageError(f"--mixed-precision {mixed_precision}: {error}") from None
        found = sorted(name for name in os.environ if name in _LAUNCH or name.startswith("ACCELERATE_"))
        raise UsageError(
            f"cannot start as the environment says: {error}; unset {', '.join(found) or 'what asks for it'}, or start "
            "with accelerate launch -m realign_cli train ..."
        ) from None


def prepare_run(
    accelerator: Accelerator, out: Path, config: Mapping[str, Any], resume: str, *, overwrite: bool
) -> checkpoint.Checkpoint | None:
    """Claim the folder of the run, and find the checkpoint to continue from: the latest, or the one named.

    Raises:
        UsageError: the folder or the checkpoint belongs to another configuration, or the one named is damaged.
    """
    if accelerator.is_main_process:
        if overwrite and (out / RUN).exists():  # before the claim: a kill must not leave old checkpoints to a new run
            _clear(out)
        open_run(out, config, overwrite=overwrite)
        atomic.remove_leftovers(out)
    accelerator.wait_for_everyone()
    accelerator.init_trackers("realign")
    if resume == "latest":
        return checkpoint.latest(out)
    found = checkpoint.read(Path(resume))
    if not isinstance(found.facts.get("config"), dict):
        raise UsageError(
            f"{found.path}: its {checkpoint.MANIFEST} does not say how it was made; give another checkpoint"
        )
    require_same(found.path, found.facts["config"], json.loads(json.dumps(config)))
    return found


def _clear(out: Path) -> None:
    """Delete what an earlier run left in its folder, and nothing else."""
    checkpoint.clear(out)
    for name in (LOG, CARD, CURVES, LATENTS, PENALTIES):
        (out / name).unlink(missing_ok=True)
    for sheet in (out / SAMPLES).glob("[0-9]*.png"):
        sheet.unlink()


def cached_tensors(
    accelerator: Accelerator, path: Path, what: str, batches: Iterable[dict[str, Tensor]], count: int, *, quiet: bool
) -> dict[str, Tensor]:
    """The `count` rows of tensors that `batches` yields, computed once and kept in `path`.

    The screen calls them `what`.
    """
    if accelerator.is_main_process and not path.exists():
        parts: dict[str, list[Tensor]] = {}
        with progress(what, count, quiet=quiet) as advance:
            for batch in batches:
                for name, rows in batch.items():
                    parts.setdefault(name, []).append(rows.cpu())
                advance(len(rows))
        atomic.write_bytes(path, save({name: torch.cat(rows) for name, rows in parts.items()}))
    accelerator.wait_for_everyone()
    return load_file(path)


def fit(
    method: TrainingMethod,
    accelerator: Accelerator,
    training: Training,
    out: Path,
    config: Mapping[str, Any],
    resume: checkpoint.Checkpoint | None,
    *,
    micro_batches: int,
    stop_on_collapse: bool,
    quiet: bool,
) -> None:
    """Train, and leave the model, checkpoints, `log.jsonl` and `samples/` in `out`.

    Args:
        method: what is trained, and towards what.
        accelerator: this process's place in the run.
        training: section `train` of a preset.
        out: the folder of the run, which `prepare_run` has claimed.
        config: everything that decides the result; it goes into every manifest.
        resume: the checkpoint to continue from.
        micro_batches: how many make an optimiser step, over all processes.
        stop_on_collapse: end the run when the sample images collapse.
        quiet: show no progress.

    Raises:
        UsageError: `resume` is the last step of another run already, so that there is nothing to train.
        RealignError: gradients stay without a finite value, a checkpoint cannot be written, or the samples collapsed.
    """
    if resume and resume.step >= training.max_train_steps and not checkpoint.latest(out):
        raise UsageError(
            f"{resume.path}: saved after step {resume.step}; nothing is left of --max-train-steps, raise it"
        )
    run = _TrainingLoop(method, accelerator, training, out, config, micro_batches)
    begin = run.restore(resume) if resume else 0
    if not resume:
        run.begin()
    steps = training.max_train_steps
    with training_progress(steps, begin, quiet=quiet or not accelerator.is_main_process) as report:
        for done in range(begin + 1, steps + 1):
            run.step(done - 1, report)
            signs = run.sample(done) if done % training.sample_every == 0 or done == steps else []
            stop = bool(signs) and stop_on_collapse
            if done % training.checkpoint_every == 0 or done == steps or stop:
                run.save(done)
            if stop:
                raise RealignError(f"stopped at step {done}, the images collapse: {'; '.join(signs)}")
    if accelerator.is_main_process and (last := checkpoint.latest(out)):
        checkpoint.publish(last.path, out)
    accelerator.end_training()


class _TrainingLoop:
    """The state of a run between its optimiser steps, and what is done in and after one."""

    def __init__(
        self,
        method: TrainingMethod,
        accelerator: Accelerator,
        training: Training,
        out: Path,
        config: Mapping[str, Any],
        micro_batches: int,
    ) -> None:
        self._method, self._accelerator, self._training = method, accelerator, training
        self._out, self._config, self._micro_batches = out, config, micro_batches
        self._weights = dict(method.trainable_parameters())
        parameters = list(self._weights.values())
        self._optimizer = accelerator.prepare(torch.optim.AdamW(parameters, lr=training.learning_rate))
        self._average = EMAModel(parameters, decay=training.ema) if training.ema else None
        self._before: dict[str, float] = {}  # numbers of the first sheet of samples
        self._unusable = 0  # steps without a finite gradient, in a row until now
        self._skipped = 0  # the same, in all

    def begin(self) -> None:
        """Look at the model as it is; forget what an earlier run logged that left no checkpoint."""
        if self._accelerator.is_main_process:
            (self._out / LOG).unlink(missing_ok=True)
        self.sample(0)

    def step(self, step: int, report: ReportStep) -> None:
        """One optimiser step; without a finite gradient the weights stay as they are."""
        began = time.monotonic()
        training, accelerator, micro_batches = self._training, self._accelerator, self._micro_batches
        mine = range(accelerator.process_index, micro_batches, accelerator.num_processes)
        logs: list[Mapping[str, float]] = []
        for index in mine:
            terms = self._method.terms(step, index, self._averaged)
            while True:
                with accelerator.autocast():  # of what leads to a term as well, such as the images that it is about
                    build = next(terms, None)
                    loss = build() if build else None
                if loss is None:
                    break
                accelerator.backward(loss.value / micro_batches)
                logs.append(loss.log)
        parameters = list(self._weights.values())
        for weight in parameters:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad = accelerator.reduce(weight.grad)
        norm = float(accelerator.clip_grad_norm_(parameters, training.max_grad_norm))
        finite = math.isfinite(norm)
        if finite or accelerator.scaler is not None:  # the scaler skips the step by itself, and must see why
            self._optimizer.step()
        self._optimizer.zero_grad()
        self._unusable = 0 if finite else self._unusable + 1
        self._skipped += not finite
        if self._unusable >= _PATIENCE:
            raise RealignError(
                f"no finite gradient in {self._unusable} steps up to step {step + 1}; nothing of them is kept. "
                "Lower --learning-rate, or choose --mixed-precision bf16 or no"
            )
        if finite and self._average:
            self._average.step(parameters)
        numbers = self._mean(logs) | {"grad_norm": norm if finite else None, "skipped": self._skipped}
        rate = micro_batches * training.micro_batch_size / (time.monotonic() - began)
        self._log({"step": step + 1, **numbers, "samples_per_s": round(rate, 3)})
        report(numbers, rate)

    def sample(self, step: int) -> list[str]:
        """Draw a sheet of samples and say what is wrong with them; the main process judges and tells the others."""
        signs: list[str] = []
        if self._accelerator.is_main_process:
            with self._averaged():
                sheet, looks = self._method.sample()
            atomic.write_png(self._out / SAMPLES / f"{step:06d}.png", sheet)
            self._before = self._before or looks
            signs = self._method.collapsed(looks, self._before)
            self._log({"step": step, **{f"samples/{name}": value for name, value in looks.items()}})
            for sign in signs:
                log.warning("step %d, the samples may be collapsing: %s", step, sign)
        return _from_main(signs, self._accelerator)

    def save(self, step: int) -> None:
        """Write a checkpoint from which `restore` continues."""
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            # Copies, because the weights become their average while the model is exported.
            tensors = {f"weights.{name}": weight.detach().clone() for name, weight in self._weights.items()}
            for index, moments in self._optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{index}.{name}": moment for name, moment in moments.items()}
            if self._average:
                tensors |= {f"average.{i}": t for i, t in enumerate(self._average.shadow_params)}
            scaler = self._accelerator.scaler
            facts = {
                "config": self._config,
                "samples": self._before,
                "unusable": self._unusable,
                "skipped": self._skipped,
                "scaler": scaler.state_dict() if scaler else {},
            }
            with self._averaged():
                checkpoint.save(self._out, step, tensors, facts, self._method.save)
        self._accelerator.wait_for_everyone()

    def restore(self, saved: checkpoint.Checkpoint) -> int:
        """Continue after `saved`: weights, optimiser, average, and a log that ends there.

        The first part of the log is that of the run which saved, if this one has none yet.
        """
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in saved.tensors().items():
            kind, _, name = key.partition(".")
            if kind == "weights":
                self._weights[name].data.copy_(tensor)
            elif kind == "optimizer":
                index, _, moment = name.partition(".")
                state.setdefault(int(index), {})[moment] = tensor
            elif self._average:
                self._average.shadow_params[int(name)].copy_(tensor)
        if self._average:
            self._average.optimization_step = saved.step - saved.facts["skipped"]
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(saved.facts["scaler"])
        self._before = dict(saved.facts["samples"])
        self._unusable, self._skipped = saved.facts["unusable"], saved.facts["skipped"]
        if self._accelerator.is_main_process:
            logs = [path for path in (self._out / LOG, saved.path.resolve().parents[1] / LOG) if path.is_file()]
            lines = logs[0].read_text().splitlines(keepends=True) if logs else []
            whole = [line for line in lines if line.endswith("\n")]
            atomic.write_text(self._out / LOG, "".join(x for x in whole if json.loads(x)["step"] <= saved.step))
        return saved.step

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Until the block ends, the weights are their average, if one is kept."""
        if self._average is None:
            yield
            return
        self._average.store(self._weights.values())
        self._average.copy_to(self._weights.values())
        try:
            yield
        finally:
            self._average.restore(self._weights.values())

    def _mean(self, logs: list[Mapping[str, float]]) -> dict[str, Any]:
        """The mean of each number over the terms that gave it, on all processes."""
        names = sorted({name for entry in logs for name in entry})
        sums = [(sum(e[n] for e in logs if n in e), sum(n in e for e in logs)) for n in names]
        total = self._accelerator.reduce(torch.tensor(sums, dtype=torch.float64, device=self._accelerator.device))
        means = (total[:, 0] / total[:, 1]).tolist()
        return {name: mean if math.isfinite(mean) else None for name, mean in zip(names, means, strict=True)}

    def _log(self, line: Mapping[str, Any]) -> None:
        if self._accelerator.is_main_process:
            data = json.dumps(line) + "\n"
            with atomic.report_os_errors(self._out / LOG, len(data)), (self._out / LOG).open("a") as file:
                file.write(data)
            self._accelerator.log({k: v for k, v in line.items() if k != "step" and v is not None}, step=line["step"])


def _from_main(value: list[str], accelerator: Accelerator) -> list[str]:
    from accelerate.utils import broadcast_object_list

    return list(broadcast_object_list([value])[0]) if accelerator.num_processes > 1 else value
