"""The runner of `train`: optimiser steps, on one process or several, with checkpoints, a log and sample sheets.

A method says what is trained and builds its losses from (step, micro-batch); nothing else is random. So a run that was
killed continues from its last checkpoint to the weights that it would have had, and the same micro-batches spread over
more processes give the same steps up to rounding.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save
from torch import Tensor

from realign_cli.console import Training, progress, training
from realign_cli.errors import RealignError, UsageError
from realign_cli.files import atomic
from realign_cli.runs.folder import RUN, claim, require_same
from realign_cli.training import checkpoint

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.nn import Parameter

log = logging.getLogger(__name__)

# What lies in the folder of a run beside its checkpoints and the trained model.
LOG, SAMPLES, CARD, CURVES = "log.jsonl", "samples", "README.md", "curves.png"
LATENTS, PENALTIES = "examples.safetensors", "penalties.safetensors"
# By these a launcher tells a process its place among others.
_LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Loss(Protocol):
    @property
    def value(self) -> Tensor: ...
    @property
    def log(self) -> Mapping[str, float]: ...


class Method(Protocol):
    """What is trained, and towards what."""

    def trained(self) -> Mapping[str, Parameter]: ...
    def terms(self, step: int, index: int) -> Iterator[Callable[[], Loss]]:
        """Functions that build the losses of one micro-batch, to be called in order and added up."""
        ...

    def sample(self) -> tuple[Image, dict[str, float]]:
        """A sheet of images of fixed prompts, and numbers that describe them."""
        ...

    def collapsed(self, now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
        """What is wrong with the samples, in words."""
        ...

    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Schedule:
    """How long and how a run goes."""

    steps: int
    micro_batches: int  # in an optimiser step, over all processes
    batch_size: int  # of a micro-batch
    learning_rate: float
    max_grad_norm: float
    ema: float  # decay of the average of the weights; 0 keeps none
    checkpoint_every: int
    sample_every: int
    patience: int  # optimiser steps in a row without a finite gradient, until the run ends
    stop_on_collapse: bool


def accelerate(out: Path, cpu: bool, mixed_precision: str, tracker: str) -> Accelerator:
    """This process's place in the run, alone or under `accelerate launch`; `tracker` is "none" or one of accelerate's.

    Raises:
        UsageError: the tracker's package is not installed, the precision does not go with the device, or the
            environment says of other processes what does not hold.
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


def start(
    accelerator: Accelerator, out: Path, config: Mapping[str, Any], resume: str, *, overwrite: bool
) -> checkpoint.Checkpoint | None:
    """Claim the folder of the run, and find the checkpoint to continue from: the latest, or the one named.

    Raises:
        UsageError: the folder or the checkpoint belongs to another configuration, or the one named is damaged.
    """
    if accelerator.is_main_process:
        if overwrite and (out / RUN).exists():  # first, lest a kill leave old checkpoints to the new configuration
            _clear(out)
        claim(out, config, overwrite=overwrite)
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


def kept(
    accelerator: Accelerator, path: Path, what: str, batches: Iterable[Tensor], count: int, *, quiet: bool
) -> Tensor:
    """The `count` rows that `batches` yields, computed once and kept in `path`; `what` they are is for the screen."""
    if accelerator.is_main_process and not path.exists():
        parts = []
        with progress(what, count, quiet=quiet) as advance:
            for batch in batches:
                parts.append(batch.cpu())
                advance(len(batch))
        atomic.write_bytes(path, save({"rows": torch.cat(parts)}))
    accelerator.wait_for_everyone()
    return load_file(path)["rows"]


def fit(
    method: Method,
    accelerator: Accelerator,
    schedule: Schedule,
    out: Path,
    config: Mapping[str, Any],
    resume: checkpoint.Checkpoint | None,
    *,
    quiet: bool,
) -> None:
    """Train, and leave the model, checkpoints, `log.jsonl` and `samples/` in `out`.

    `config`, everything that decides the result, goes into every manifest.

    Raises:
        RealignError: gradients stay without a finite value, a checkpoint cannot be written, or the samples collapsed.
    """
    run = _Run(method, accelerator, schedule, out, config)
    begin = run.restore(resume) if resume else 0
    if not resume:
        run.begin()
    with training(schedule.steps, begin, quiet=quiet or not accelerator.is_main_process) as screen:
        for step in range(begin, schedule.steps):
            run.step(step, screen)
            done = step + 1
            signs = run.sample(done) if done % schedule.sample_every == 0 or done == schedule.steps else []
            if done % schedule.checkpoint_every == 0 or done == schedule.steps or (signs and schedule.stop_on_collapse):
                run.save(done)
            if signs and schedule.stop_on_collapse:
                raise RealignError(f"stopped at step {done}, the images collapse: {'; '.join(signs)}")
    if accelerator.is_main_process and (last := checkpoint.latest(out)):
        checkpoint.publish(last.path, out)
    accelerator.end_training()


class _Run:
    def __init__(
        self, method: Method, accelerator: Accelerator, schedule: Schedule, out: Path, config: Mapping[str, Any]
    ) -> None:
        self._method, self._accelerator, self._schedule = method, accelerator, schedule
        self._out, self._config = out, config
        self._weights = dict(method.trained())
        parameters = list(self._weights.values())
        self._optimizer = accelerator.prepare(torch.optim.AdamW(parameters, lr=schedule.learning_rate))
        self._average = EMAModel(parameters, decay=schedule.ema) if schedule.ema else None
        self._before: dict[str, float] = {}  # what the samples looked like at first
        self._unusable = 0  # steps in a row
        self._skipped = 0  # steps in all

    def begin(self) -> None:
        """Look at the model as it is; forget what an earlier run logged that left no checkpoint."""
        if self._accelerator.is_main_process:
            (self._out / LOG).unlink(missing_ok=True)
        self.sample(0)

    def step(self, step: int, screen: Training) -> None:
        """One optimiser step; without a finite gradient the weights stay as they are."""
        began = time.monotonic()
        schedule, accelerator = self._schedule, self._accelerator
        mine = range(accelerator.process_index, schedule.micro_batches, accelerator.num_processes)
        logs: list[Mapping[str, float]] = []
        for index in mine:
            for build in self._method.terms(step, index):
                with accelerator.autocast():
                    loss = build()
                accelerator.backward(loss.value / schedule.micro_batches)
                logs.append(loss.log)
        parameters = list(self._weights.values())
        for weight in parameters:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad = accelerator.reduce(weight.grad)
        norm = float(accelerator.clip_grad_norm_(parameters, schedule.max_grad_norm))
        finite = norm - norm == 0
        if finite or accelerator.scaler is not None:  # the scaler skips by itself, and must see why
            self._optimizer.step()
        self._optimizer.zero_grad()
        self._unusable = 0 if finite else self._unusable + 1
        self._skipped += not finite
        if self._unusable >= schedule.patience:
            raise RealignError(
                f"no finite gradient in {self._unusable} steps up to step {step + 1}; nothing of them is kept. "
                "Lower --learning-rate, or choose --mixed-precision bf16 or no"
            )
        if finite and self._average:
            self._average.step(parameters)
        numbers = self._mean(logs) | {"grad_norm": norm if finite else None, "skipped": self._skipped}
        rate = schedule.micro_batches * schedule.batch_size / (time.monotonic() - began)
        self._log({"step": step + 1, **numbers, "samples_per_s": round(rate, 3)})
        screen(numbers, rate)

    def sample(self, step: int) -> list[str]:
        """A sheet of samples and what is wrong with them; judged on the main process, known to all."""
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
        """Continue after `saved`: weights, optimiser, average, and a log that ends there."""
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
            lines = (self._out / LOG).read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            atomic.write_text(self._out / LOG, "".join(x for x in whole if json.loads(x)["step"] <= saved.step))
        return saved.step

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the weights are their average, where one is kept."""
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
        return {name: mean if mean - mean == 0 else None for name, mean in zip(names, means, strict=True)}

    def _log(self, line: Mapping[str, Any]) -> None:
        if self._accelerator.is_main_process:
            data = json.dumps(line) + "\n"
            with atomic.told(self._out / LOG, len(data)), (self._out / LOG).open("a") as file:
                file.write(data)
            self._accelerator.log({k: v for k, v in line.items() if k != "step" and v is not None}, step=line["step"])


def _from_main(value: list[str], accelerator: Accelerator) -> list[str]:
    from accelerate.utils import broadcast_object_list

    return list(broadcast_object_list([value])[0]) if accelerator.num_processes > 1 else value
