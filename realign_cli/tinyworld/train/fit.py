"""The one training loop of the embedded models: resumable, repeatable, on one process or several.

A role provides its model and `loss(step, rank)`, which draws its own batch from `(step, rank)`. Nothing else is random,
so a killed run that continues ends with the weights of one that was never killed.

Its checkpoints are those of `realign train`, but its loop is another one. `realign train` fine-tunes a generator: the
learning rate is constant, the number of micro-batches does not depend on the number of processes, and samples are drawn
to notice a collapse. Here a model starts from random weights: the learning rate warms up and decays, each process adds
a batch of its own, and buffers are averaged with the weights. The packaged weights depend on these choices.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from realign_cli.training import checkpoint

log = logging.getLogger(__name__)

_SAVE_EVERY_SECONDS = 120
_LOG_EVERY_STEPS = 50


def fit(
    model: nn.Module,
    loss: Callable[[int, int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    work: Path,
    weight_decay: float = 0.01,
    ema: float = 0.0,
    decay_share: float = 0.4,
    last: bool = True,
) -> float:
    """Minimise `loss(step, rank)` over `model` with AdamW; `model` ends with the averaged weights if `ema` is set.

    The learning rate warms up over 100 steps, stays, and falls along a cosine over the last `decay_share` of the run.
    Progress is written to `work/log.jsonl`, checkpoints to `work/checkpoints`.

    Under `torchrun` the gradients of all processes are averaged. After the `last` training of a role only the first
    process returns, because one is enough to save and measure the model; the others exit.

    Returns the minutes that all steps take at the rate of the last continuation; NaN for fewer than 50 steps.

    Raises:
        RealignError: a checkpoint cannot be written.
    """
    torch.set_flush_denormal(True)
    rank, world = _join_processes()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99))
    average = {k: v.detach().clone() for k, v in model.state_dict().items()} if ema else {}
    work.mkdir(parents=True, exist_ok=True)
    start = _restore(work, model, optimizer, average)
    began = saved = time.monotonic()
    running = 0.0
    model.train()
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _learning_rate_factor(step, steps, decay_share)
        value = loss(step, rank)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        _average_gradients(parameters, world)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if average:
            share = min(ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for key, tensor in model.state_dict().items():
                    average[key].lerp_(tensor, 1 - share) if tensor.is_floating_point() else average[key].copy_(tensor)
        running += value.item()
        done = step + 1
        if rank == 0 and done % _LOG_EVERY_STEPS == 0:
            rate = (done - start) / (time.monotonic() - began)
            mean = running / min(_LOG_EVERY_STEPS, done - start)  # fewer steps after a continuation
            line = {"step": done, "loss": round(mean, 5), "steps_per_s": round(rate, 2)}
            with (work / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            log.info("%s step %d/%d loss %.4f, %.2f steps/s", work.name, done, steps, line["loss"], rate)
            running = 0.0
        if rank == 0 and (time.monotonic() - saved > _SAVE_EVERY_SECONDS or done == steps):
            checkpoint.save(work, done, _state(model, optimizer, average), {}, export=lambda folder: None)
            saved = time.monotonic()
    if average:
        model.load_state_dict(average)
    model.eval()
    if world > 1:
        dist.barrier()
    if last and dist.is_initialized():
        dist.destroy_process_group()
        if rank > 0:
            sys.exit()
    return _minutes(work / "log.jsonl", steps)


def rank_of_process() -> int:
    """The number of this process among those that train together; 0 is the first, or the only one."""
    return int(os.environ.get("RANK", "0"))


def _join_processes() -> tuple[int, int]:
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    torch.set_num_threads(1)
    return dist.get_rank(), dist.get_world_size()


def _minutes(log_file: Path, steps: int) -> float:
    if not log_file.exists():
        return math.nan
    rate: float = json.loads(log_file.read_text().splitlines()[-1])["steps_per_s"]
    return steps / rate / 60


def _learning_rate_factor(step: int, steps: int, decay_share: float) -> float:
    warm = min(1.0, (step + 1) / 100)
    left = (steps - step) / (decay_share * steps)
    return warm * (1.0 if left >= 1 else 0.5 - 0.5 * math.cos(math.pi * left))


def _average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    if world == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _state(model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of all tensors of the training, because a checkpoint does not take tensors that share memory."""
    tensors = {f"weights.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    for i, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
    return {k: v.detach().clone() for k, v in tensors.items()}


def _restore(work: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]) -> int:
    """Load the latest checkpoint, if there is one. Returns the number of steps that are done."""
    saved = checkpoint.latest(work)
    if saved is None:
        return 0
    moments: dict[int, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    for key, tensor in saved.tensors().items():
        kind, _, name = key.partition(".")
        if kind == "weights":
            weights[name] = tensor
        elif kind == "average":
            average[name] = tensor
        else:
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    log.info("continuing %s at step %d", work.name, saved.step)
    return saved.step
