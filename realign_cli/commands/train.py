from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realign_cli.commands.options import Common

if TYPE_CHECKING:
    from accelerate import Accelerator
    from PIL import Image

    from realign_cli.data.captions import Captions, Example
    from realign_cli.errors import UsageError
    from realign_cli.registry import Models
    from realign_cli.roles import Reward, Trainee
    from realign_cli.settings import Training
    from realign_cli.training.examples import Examples
    from realign_cli.training.feedback import Feedback

log = logging.getLogger(__name__)

_METHOD, _OPTIMISER, _RUN = "Method", "Optimiser", "Run"
_INDIFFERENT = ("max_train_steps", "gradient_checkpointing", "checkpointing_steps", "sampling_steps")
_EMBEDDED = "package:generator"
_SHAPES = 4096  # pictures of --data shapes
_PATIENCE = 5  # optimiser steps in a row without a finite gradient


class Estimator(StrEnum):
    reinforce = "reinforce"
    likelihood = "likelihood"
    weighted = "weighted"


class Combine(StrEnum):
    sum = "sum"
    alternate = "alternate"


class Precision(StrEnum):
    no = "no"
    fp16 = "fp16"
    bf16 = "bf16"


class Tracker(StrEnum):
    none = "none"
    tensorboard = "tensorboard"
    wandb = "wandb"


def train(
    options: Common,
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE|DIR|NAME",
            help="Prompts: .txt, .jsonl, COCO's captions .json, a folder of records, coco, shapes, or a hub dataset.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The trained model, checkpoints, log and samples.")] = Path(
        "runs/coarse"
    ),
    reward: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=WEIGHT,...",
            help="What to train for: caption, clip, blip, or module:Class.",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    estimator: Annotated[
        Estimator | None,
        typer.Option(help="How the model learns from the reward.", rich_help_panel=_METHOD),
    ] = None,
    combine: Annotated[
        Combine | None, typer.Option(help="Reward and L_pre in one step or by turns.", rich_help_panel=_METHOD)
    ] = None,
    terms_per_rollout: Annotated[
        int | None, typer.Option(min=1, help="Reward terms taken from one rollout.", rich_help_panel=_METHOD)
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=0, help="Of the LoRA; 0 trains the whole U-Net.", rich_help_panel=_METHOD)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Constant, of AdamW.", rich_help_panel=_OPTIMISER)
    ] = None,
    max_train_steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps in all.", rich_help_panel=_OPTIMISER)
    ] = None,
    mixed_precision: Annotated[
        Precision | None, typer.Option(help="Autocast; the weights stay float32.", rich_help_panel=_OPTIMISER)
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Less memory, more time.",
            rich_help_panel=_OPTIMISER,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.", rich_help_panel=_OPTIMISER)] = 42,
    resume_from_checkpoint: Annotated[
        str, typer.Option(metavar="latest|DIR", help="Where an interrupted run goes on.", rich_help_panel=_RUN)
    ] = "latest",
    stop_on_collapse: Annotated[
        bool, typer.Option("--stop-on-collapse", help="Stop when the sample images collapse.", rich_help_panel=_RUN)
    ] = False,
    report_to: Annotated[
        Tracker, typer.Option(help="A tracker beside log.jsonl.", rich_help_panel=_RUN)
    ] = Tracker.none,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over in a folder of an earlier run.", rich_help_panel=_RUN)
    ] = False,
) -> None:
    """Fine-tune the generator with reward feedback learning on the caption reward (Eq. 4 and 5).

    Images are captioned; the closer the caption is to the prompt, the better. 'reinforce' and 'likelihood' send the
    reward's gradient through the captioner into images on their way from noise. 'weighted' teaches images in proportion
    to their reward: those that the data has, else the model's own. What is not given here is in section 'train' of the
    preset.

    The folder that comes out is what --model of generate and refine takes: a whole pipeline, or with --rank a LoRA that
    diffusers' load_lora_weights reads. The same command continues an interrupted run. Several processes: accelerate
    launch -m realign_cli train ...

    Examples:

    realign train --data coco

    realign train --preset tiny --data shapes --out runs/coarse

    realign train --data captions_train2014.json --reward caption=1.0,clip=0.2 --out runs/coarse

    realign generate --prompts prompts.txt --model runs/coarse --out coarse/
    """
    from realign_cli import presets
    from realign_cli.console import Verbosity, console, plain
    from realign_cli.data.captions import COCO
    from realign_cli.registry import Models

    Verbosity(options.quiet, options.verbose).apply()
    given = {
        "reward": reward,
        "estimator": estimator,
        "combine": combine,
        "terms_per_rollout": terms_per_rollout,
        "rank": rank,
        "learning_rate": learning_rate,
        "max_train_steps": max_train_steps,
        "mixed_precision": mixed_precision,
        "gradient_checkpointing": gradient_checkpointing,
    }
    preset = presets.load(options.preset, options.overrides)
    chosen = {key: str(value) if isinstance(value, StrEnum) else value for key, value in given.items()}
    preset = preset.with_("train", {key: value for key, value in chosen.items() if value is not None})
    models = Models(preset, options.device)
    training = models.training
    weights = _weights(training.reward)
    embedded = preset.section("generator").get("checkpoint") == _EMBEDDED
    if embedded and data == COCO:  # before it is fetched
        raise _foreign(data, "")
    captions = _captions(data)
    if embedded:
        _require_known_words(data, captions)

    from realign_cli.runs.lock import held
    from realign_cli.training.checkpoint import require_space  # takes seconds, and what is wrong above is known by now
    from realign_cli.training.feedback import RewardFeedback
    from realign_cli.training.loop import Schedule, accelerate, fit, start

    accelerator = accelerate(out, options.device == "cpu", training.mixed_precision, report_to)
    if accelerator.is_main_process and not options.quiet:
        console.print(
            plain(f"{len(captions.prompts)} prompts from {captions.note}; training into {out}"), soft_wrap=True
        )
    micro_batches = _micro_batches(training, accelerator.num_processes)
    rewards = {name: _reward(models, name, training.estimator) for name in weights}
    trainee = models.trainee(
        steps=training.steps,
        guidance=training.guidance,
        rank=training.rank,
        checkpointing=training.gradient_checkpointing,
        seed=seed,
    )
    config = _config(models, captions, training, weights, seed)
    require_space(out, _checkpoint_bytes(trainee, training.ema > 0))
    with held(out) if accelerator.is_main_process else nullcontext():
        resume = start(accelerator, out, config, resume_from_checkpoint, overwrite=overwrite)
        feedback = _feedback(training, weights, micro_batches, seed)
        size = preset.section("generator")["size"]
        examples, left_out = _examples(
            accelerator,
            trainee,
            captions,
            rewards,
            feedback,
            training.pretraining_images,
            size,
            out,
            quiet=options.quiet,
        )
        method = RewardFeedback(models, trainee, rewards, feedback, captions.prompts, examples)
        schedule = Schedule(
            steps=training.max_train_steps,
            micro_batches=micro_batches,
            batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            max_grad_norm=training.max_grad_norm,
            ema=training.ema,
            checkpoint_every=training.checkpointing_steps,
            sample_every=training.sampling_steps,
            patience=_PATIENCE,
            stop_on_collapse=stop_on_collapse,
        )
        fit(method, accelerator, schedule, out, config, resume, quiet=options.quiet)
        if accelerator.is_main_process:
            _report(options, out, config, left_out, training.max_train_steps)


def _weights(text: str) -> dict[str, float]:
    """The weight of each reward in "caption=1.0,clip=0.2"; 1 where none is given."""
    from realign_cli.errors import UsageError

    weights = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise UsageError(f"--reward {text}: {weight!r} is no number; write NAME=WEIGHT,...") from None
    return weights


def _captions(data: str) -> Captions:
    from realign_cli.data.captions import Captions, Example, read_captions

    if data != "shapes":
        return read_captions(data)

    from PIL import Image

    from realign_cli.tinyworld.scenes import Scene, careless_examples, render, training_prompts

    def picture(scene: Scene) -> Callable[[], Image.Image]:
        return lambda: Image.fromarray(render(scene))

    examples = [Example(caption, picture(scene), data) for caption, scene in careless_examples(_SHAPES)]
    return Captions(
        training_prompts(), "shapes: rendered scenes, of no held-out combination, carelessly captioned", examples
    )


def _require_known_words(data: str, captions: Captions) -> None:
    """Refuse captions that the embedded generator cannot read.

    Raises:
        UsageError: a word that is no word of the coloured shapes.
    """
    from realign_cli.tinyworld.scenes import words

    known = {*words()}
    for prompt in captions.prompts:
        if unknown := [word for word in re.findall(r"[^\W_]+", prompt.lower()) if word not in known]:
            raise _foreign(data, f", and not '{unknown[0]}' of {prompt!r}")


def _foreign(data: str, word: str) -> UsageError:
    from realign_cli.errors import UsageError

    return UsageError(
        f"--data {data}: the embedded generator knows only the words of coloured shapes{word}; give --data shapes, or "
        "another --preset"
    )


def _micro_batches(training: Training, processes: int) -> int:
    from realign_cli.errors import UsageError

    size, effective = training.batch_size, training.effective_batch_size
    if effective % (size * processes):
        raise UsageError(
            f"train.effective_batch_size {effective} is no multiple of train.batch_size {size} x {processes} processes"
        )
    return int(effective // size)


def _reward(models: Models, name: str, estimator: str) -> Reward:
    """The estimator is a matter of the caption reward alone; weighting needs the value only, which `reinforce` has."""
    if name != "caption":
        return models.reward(name)
    return models.reward(name, estimator="reinforce" if estimator == Estimator.weighted else estimator)


def _config(
    models: Models, captions: Captions, training: Training, weights: Mapping[str, float], seed: int
) -> dict[str, Any]:
    """What decides the weights that come out; how long the run is and how memory is saved do not."""
    import hashlib
    from dataclasses import asdict

    roles = ["generator", "captioner", "text_encoder", *(f"reward-{name}" for name in weights if ":" not in name)]
    return {
        "command": "train",
        "data": captions.note,
        "prompts": len(captions.prompts),
        "prompts_sha256": hashlib.sha256("\n".join(captions.prompts).encode()).hexdigest(),
        "seed": seed,
        "train": {k: v for k, v in asdict(training).items() if k not in _INDIFFERENT},
        **models.describe(roles),
    }


def _checkpoint_bytes(trainee: Trainee, averaged: bool) -> int:
    """Of all that are kept and the one being written: weights, two moments, perhaps an average, and the model."""
    from realign_cli.training.checkpoint import KEPT

    trained = sum(weight.numel() for weight in trainee.trained().values())
    return (KEPT + 1) * (4 * trained * (3 + averaged) + trainee.saved_bytes())


def _feedback(training: Training, weights: Mapping[str, float], micro_batches: int, seed: int) -> Feedback:
    from realign_cli.training.feedback import Feedback

    return Feedback(
        rewards=weights,
        weighted=training.estimator == Estimator.weighted,
        scale=training.scale,
        temperature=training.temperature,
        first_step=training.first_step,
        last_step=training.last_step,
        terms=training.terms_per_rollout,
        combine=training.combine,
        batch_size=training.batch_size,
        micro_batches=micro_batches,
        seed=seed,
    )


def _examples(
    accelerator: Accelerator,
    trainee: Trainee,
    captions: Captions,
    rewards: Mapping[str, Reward],
    feedback: Feedback,
    count: int,
    size: int,
    out: Path,
    *,
    quiet: bool,
) -> tuple[Examples | None, list[str]]:
    """What is denoised: real images where the data has them, else what the model draws before training.

    And where the data names images that cannot be read. They are left out: a run that continues leaves out the same.

    Raises:
        UsageError: none of them can be used.
    """
    import numpy as np

    from realign_cli.errors import UsageError
    from realign_cli.training.examples import Examples, own_latents, penalties, real_latents
    from realign_cli.training.loop import LATENTS, PENALTIES, kept

    batch_size, draw = feedback.batch_size, np.random.default_rng(feedback.seed)
    real = captions.examples
    known = len(real or captions.prompts)
    count = min(count, known) if real else count
    if not count:
        return None, []
    chosen = np.concatenate([draw.permutation(known) for _ in range(0, count, known)])[:count].tolist()
    left_out = []
    if real:
        latents = real_latents(trainee, (_read(real[i]) for i in chosen), size)
    else:
        latents = own_latents(trainee, [captions.prompts[i] for i in chosen], batch_size, feedback.seed)
    rows = kept(accelerator, out / LATENTS, "examples", latents, count, quiet=quiet)
    if real:
        usable = rows.flatten(1).isfinite().all(1)
        left_out = [real[i].place for i, good in zip(chosen, usable.tolist(), strict=True) if not good]
        rows, chosen = rows[usable], [i for i, good in zip(chosen, usable.tolist(), strict=True) if good]
    if left_out:
        named = f"{len(left_out)} of {count} training images cannot be used and are left out: {', '.join(left_out[:3])}"
        line = named + ", ..." * (len(left_out) > 3)
        if not chosen:
            raise UsageError(line)
        if accelerator.is_main_process:
            log.warning("%s", line)
    examples = Examples(rows, [real[i].prompt if real else captions.prompts[i] for i in chosen])
    if not feedback.weighted:
        return examples, left_out
    judged = penalties(trainee, rewards, feedback.rewards, examples, batch_size, feedback.seed)
    found = kept(accelerator, out / PENALTIES, "rewards", judged, len(examples.prompts), quiet=quiet)
    return replace(examples, penalties=found), left_out


def _read(example: Example) -> Image.Image | None:
    from realign_cli.errors import RecordError

    try:
        return example.image()
    except RecordError as error:
        log.debug("%s: %s", example.place, error)
        return None


def _report(options: Common, out: Path, config: Mapping[str, Any], left_out: Sequence[str], steps: int) -> None:
    import json
    import shlex

    from realign_cli.console import console, plain
    from realign_cli.training.model_card import write_card

    write_card(out, config, left_out)
    if options.as_json:
        console.print(plain(json.dumps({"command": "train", "out": str(out), "steps": steps})), soft_wrap=True)
    elif not options.quiet:
        console.print(plain(f"trained {steps} steps; wrote {out} (README.md, samples/)"), soft_wrap=True)
        console.print(
            plain(
                f"next: realign generate --prompts prompts.txt --model {shlex.quote(str(out))} --out coarse/"
                f"{options.naming}"
            ),
            soft_wrap=True,
        )
