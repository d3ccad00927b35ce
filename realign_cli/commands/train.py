"""`realign train`: its options, and the data that it reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from realign_cli.commands.options import ModelOptions
from realign_cli.settings import Combine, Estimator, Precision

if TYPE_CHECKING:
    from PIL import Image

    from realign_cli.data.captions import Captions
    from realign_cli.errors import UsageError

_METHOD, _OPTIMISER, _RUN = "Method", "Optimiser", "Run"
_SHAPES = 4096  # pictures of --data shapes

Tracker = Literal["none", "tensorboard", "wandb"]


def train(
    options: ModelOptions,
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE|DIR|NAME",
            help="Prompts: .txt, .jsonl, COCO's captions .json, a folder of records, coco, shapes, or a hub dataset.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the trained model, checkpoints, log and samples.")
    ] = Path("runs/coarse"),
    reward: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=WEIGHT,...",
            help="Rewards to train for: caption, clip, blip, itm, count, or module:Class.",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    estimator: Annotated[
        Estimator | None,
        typer.Option(help="How the model learns from the reward.", rich_help_panel=_METHOD),
    ] = None,
    combine: Annotated[
        Combine | None, typer.Option(help="Take the reward and L_pre in one step or by turns.", rich_help_panel=_METHOD)
    ] = None,
    terms_per_rollout: Annotated[
        int | None, typer.Option(min=1, help="Number of reward terms taken from one rollout.", rich_help_panel=_METHOD)
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=0, help="LoRA rank; 0 fine-tunes the whole U-Net.", rich_help_panel=_METHOD)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="AdamW learning rate (constant).", rich_help_panel=_OPTIMISER)
    ] = None,
    max_train_steps: Annotated[
        int | None, typer.Option(min=1, help="Number of optimiser steps of the whole run.", rich_help_panel=_OPTIMISER)
    ] = None,
    mixed_precision: Annotated[
        Precision | None,
        typer.Option(help="Precision of autocast; the weights stay float32.", rich_help_panel=_OPTIMISER),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Use less memory and more time.",
            rich_help_panel=_OPTIMISER,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed for all randomness.", rich_help_panel=_OPTIMISER)] = 42,
    resume_from_checkpoint: Annotated[
        str, typer.Option(metavar="latest|DIR", help="Checkpoint to resume from.", rich_help_panel=_RUN)
    ] = "latest",
    stop_on_collapse: Annotated[
        bool, typer.Option("--stop-on-collapse", help="Stop when the sample images collapse.", rich_help_panel=_RUN)
    ] = False,
    report_to: Annotated[Tracker, typer.Option(help="Also log to this tracker.", rich_help_panel=_RUN)] = "none",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the earlier run in --out and start over.", rich_help_panel=_RUN)
    ] = False,
) -> None:
    """Fine-tune the generator with reward feedback learning on the caption reward (Eq. 4 and 5).

    Images are captioned; the closer the caption is to the prompt, the better. 'reinforce' and 'likelihood' send the
    reward's gradient through the captioner into images on their way from noise, 'draft' through the sampler as well.
    'weighted' teaches the images of the data in proportion to their reward. 'nft' and 'ddpo' need prompts alone: the
    generator draws several images of each, and learns from the better and the worse. What is not given here is in
    sections 'train' and 'train-ESTIMATOR' of the preset.

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
    from realign_cli.registry import PACKAGE, Models

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
    preset = preset.with_section("train", {key: value for key, value in given.items() if value is not None})
    models = Models(preset, options.device)
    training = models.training
    embedded = str(preset.section("generator").get("checkpoint")).startswith(PACKAGE)
    if embedded and data == COCO:  # refused before it is downloaded
        raise _foreign(data, "")
    captions = _captions(data)
    if embedded:
        _require_known_words(data, captions)

    from realign_cli.training.loop import make_accelerator  # takes seconds, so that mistakes above are told at once
    from realign_cli.training.setup import train_generator

    accelerator = make_accelerator(out, options.device == "cpu", training.mixed_precision, report_to)
    if accelerator.is_main_process and not options.quiet:
        console.print(
            plain(f"{len(captions.prompts)} prompts from {captions.note}; training into {out}"), soft_wrap=True
        )
    train_generator(
        models,
        captions,
        accelerator,
        out,
        seed=seed,
        resume=resume_from_checkpoint,
        stop_on_collapse=stop_on_collapse,
        overwrite=overwrite,
        quiet=options.quiet,
    )
    if accelerator.is_main_process:
        _report(options, out, training.max_train_steps)


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


def _report(options: ModelOptions, out: Path, steps: int) -> None:
    import shlex

    from realign_cli.console import console, plain, write_json

    if options.as_json:
        write_json({"command": "train", "out": str(out), "steps": steps})
    elif not options.quiet:
        console.print(plain(f"trained {steps} steps; wrote {out} (README.md, samples/)"), soft_wrap=True)
        console.print(
            plain(
                f"next: realign generate --prompts prompts.txt --model {shlex.quote(str(out))} --out coarse/"
                f"{options.preset_argument}"
            ),
            soft_wrap=True,
        )
