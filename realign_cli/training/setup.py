"""From a preset and its data to a running training: models, rewards, examples, and what decides the result."""

from __future__ import annotations

import hashlib
import logging
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from realign_cli.errors import RecordError, UsageError
from realign_cli.runs.lock import folder_lock
from realign_cli.settings import ON_POLICY, image_size
from realign_cli.training.checkpoint import KEPT, require_space
from realign_cli.training.denoising import WeightedDenoising
from realign_cli.training.examples import Examples, own_latents, penalties, real_latents
from realign_cli.training.feedback import DirectReward, RewardFeedback
from realign_cli.training.loop import LATENTS, PENALTIES, cached_tensors, fit, prepare_run
from realign_cli.training.model_card import write_card
from realign_cli.training.on_policy import NegativeAware, PolicyGradient

if TYPE_CHECKING:
    from accelerate import Accelerator
    from PIL import Image

    from realign_cli.data.captions import Captions, Example
    from realign_cli.registry import Models
    from realign_cli.roles import Reward, TrainableGenerator
    from realign_cli.settings import Training
    from realign_cli.training.method import GeneratorTraining

log = logging.getLogger(__name__)

# How long a run is and how it saves memory: a run that was interrupted may continue with other values.
_INDIFFERENT = ("max_train_steps", "gradient_checkpointing", "checkpoint_every", "sample_every")


METHODS: dict[str, type[GeneratorTraining]] = {
    "reinforce": RewardFeedback,
    "likelihood": RewardFeedback,
    "weighted": WeightedDenoising,
    "draft": DirectReward,
    "nft": NegativeAware,
    "ddpo": PolicyGradient,
    "refl": RewardFeedback,  # by the numbers of ImageReward's authors
}
# What stands for Eq. 4 where the estimator does not say it itself: a gradient, the mean of several captions, the value.
_CAPTION_REWARDS = {
    "draft": "likelihood",
    "weighted": "reinforce",
    "nft": "exact",
    "ddpo": "exact",
    "refl": "reinforce",
}


def train_generator(
    models: Models,
    captions: Captions,
    accelerator: Accelerator,
    out: Path,
    *,
    seed: int,
    resume: str,
    stop_on_collapse: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Train the generator of a preset as its section `train` says, and leave model, log, samples and card in `out`.

    Args:
        models: of the preset; `models.training` holds every number that is not an argument here.
        captions: prompts, and real images where the data has them.
        accelerator: this process's place in the run.
        out: a new folder, or that of an interrupted run with the same configuration.
        seed: for all randomness.
        resume: "latest", or the folder of the checkpoint to continue from.
        stop_on_collapse: end the run when the sample images collapse.
        overwrite: start over in a folder of an earlier run.
        quiet: show no progress.

    Raises:
        UsageError: the preset, the data, the folder or the checkpoint cannot be used as given.
        RealignError: as `require_space` and `fit`.
    """
    training = models.training
    if training.estimator == "weighted" and not captions.examples:
        raise UsageError(
            f"estimator 'weighted' learns from images, and {captions.note} brings none (those that the generator draws "
            "itself make it worse); choose --estimator nft, which learns from prompts alone"
        )
    micro_batches = _micro_batches(training, accelerator.num_processes)
    rewards = {name: reward_of(models, name, training) for name in training.rewards}
    generator = models.trainable_generator(
        steps=training.sampler_steps,
        guidance=training.guidance,
        rank=training.rank,
        checkpointing=training.gradient_checkpointing,
        seed=seed,
    )
    config = _config(models, captions, training, seed)
    require_space(out, _checkpoint_bytes(generator, averaged=training.ema > 0))
    with folder_lock(out) if accelerator.is_main_process else nullcontext():
        last = prepare_run(accelerator, out, config, resume, overwrite=overwrite)
        size = image_size(models.preset.section("generator")["size"])
        examples, left_out = _examples(accelerator, generator, captions, training, size, out, seed=seed, quiet=quiet)
        if examples and training.estimator == "weighted":
            judged = penalties(generator, rewards, training.rewards, examples, training.micro_batch_size, seed)
            count = len(examples.prompts)
            found = cached_tensors(accelerator, out / PENALTIES, "rewards", judged, count, quiet=quiet)
            examples = replace(examples, penalties=found["penalties"])
        method = METHODS[training.estimator](
            models, generator, rewards, training, captions.prompts, examples, micro_batches=micro_batches, seed=seed
        )
        fit(
            method,
            accelerator,
            training,
            out,
            config,
            last,
            micro_batches=micro_batches,
            stop_on_collapse=stop_on_collapse,
            quiet=quiet,
        )
        if accelerator.is_main_process:
            write_card(out, config, left_out)


def _micro_batches(training: Training, processes: int) -> int:
    """How many micro-batches make an optimiser step, over all processes."""
    size, effective = training.micro_batch_size, training.effective_batch_size
    if effective % (size * processes):
        raise UsageError(
            f"train.effective_batch_size {effective} is no multiple of "
            f"train.micro_batch_size {size} x {processes} processes"
        )
    return effective // size


def reward_of(models: Models, name: str, training: Training) -> Reward:
    """Only the caption reward, whose value has no gradient, has a choice of what stands for it."""
    if name != "caption":
        return models.reward(name)
    return models.reward(name, estimator=_CAPTION_REWARDS.get(training.estimator, training.estimator))


def _config(models: Models, captions: Captions, training: Training, seed: int) -> dict[str, Any]:
    """Everything that decides the weights that come out."""
    described = [f"reward-{name}" for name in training.rewards if ":" not in name]
    return {
        "command": "train",
        "data": captions.note,
        "prompts": len(captions.prompts),
        "prompts_sha256": hashlib.sha256("\n".join(captions.prompts).encode()).hexdigest(),
        "seed": seed,
        "train": {key: value for key, value in asdict(training).items() if key not in _INDIFFERENT},
        **models.describe(["generator", "captioner", "text_encoder", *described]),
    }


def _checkpoint_bytes(generator: TrainableGenerator, *, averaged: bool) -> int:
    """Disk space for the checkpoints that are kept plus the one being written.

    Each holds the weights, two moments of each, their average where there is one, and the model.
    """
    trained = sum(weight.numel() for weight in generator.trainable_parameters().values())
    return (KEPT + 1) * (4 * trained * (3 + averaged) + generator.saved_bytes())


def _examples(
    accelerator: Accelerator,
    generator: TrainableGenerator,
    captions: Captions,
    training: Training,
    size: tuple[int, int],
    out: Path,
    *,
    seed: int,
    quiet: bool,
) -> tuple[Examples | None, list[str]]:
    """What is denoised: real images where the data has them, else what the model draws before training.

    And where the data names images that cannot be read. They are left out: a run that continues leaves out the same.

    Raises:
        UsageError: none of them can be used.
    """
    real = captions.examples
    draw = np.random.default_rng(seed)
    known = len(real or captions.prompts)
    count = min(training.pretraining_images, known) if real else training.pretraining_images
    if not count or training.estimator in ON_POLICY:
        return None, []
    chosen = np.concatenate([draw.permutation(known) for _ in range(0, count, known)])[:count].tolist()
    left_out = []
    if real:
        latents = real_latents(generator, (_image(real[i]) for i in chosen), size)
    else:
        latents = own_latents(generator, [captions.prompts[i] for i in chosen], training.micro_batch_size, seed)
    rows = cached_tensors(accelerator, out / LATENTS, "examples", latents, count, quiet=quiet)
    if real:
        usable = rows["latents"].flatten(1).isfinite().all(1)
        left_out = [real[i].place for i, good in zip(chosen, usable.tolist(), strict=True) if not good]
        rows = {name: each[usable] for name, each in rows.items()}
        chosen = [i for i, good in zip(chosen, usable.tolist(), strict=True) if good]
    if left_out:
        named = f"{len(left_out)} of {count} training images cannot be used and are left out: {', '.join(left_out[:3])}"
        line = named + ", ..." * (len(left_out) > 3)
        if not chosen:
            raise UsageError(line)
        if accelerator.is_main_process:
            log.warning("%s", line)
    return Examples(prompts=[real[i].prompt if real else captions.prompts[i] for i in chosen], **rows), left_out


def _image(example: Example) -> Image.Image | None:
    """The image of an example, or None if it cannot be read."""
    try:
        return example.image()
    except RecordError as error:
        log.debug("%s: %s", example.place, error)
        return None
