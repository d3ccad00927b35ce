from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realign_cli.commands import _map
from realign_cli.commands.options import ModelOption, RunOptions

SEED_HELP = "Seed; with the id of a prompt it decides the noise of its image."


def generate(
    options: RunOptions,
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="A .txt, .jsonl or COCO .json file of prompts.")],
    seed: Annotated[int, typer.Option(help=SEED_HELP)] = 42,
    model: ModelOption = None,
) -> None:
    """Generate one coarse image per prompt.

    A .txt file holds one prompt a line; a .jsonl file holds objects with 'prompt', 'text' or 'caption', and may give
    each an 'id' and a 'seed'. The captions .json of COCO is read too. The folder that comes out is a Hugging Face
    imagefolder.

    Examples:

    realign generate --prompts prompts.txt --out coarse/

    realign generate --prompts prompts.txt --model runs/coarse --out coarse/

    realign generate --prompts prompts.txt --out coarse/ | realign tag | realign score
    """
    import shlex

    from realign_cli.commands._input import Input
    from realign_cli.data.prompts import read_prompts
    from realign_cli.errors import UsageError
    from realign_cli.stages.generate import Generate

    if options.out is None:
        raise UsageError("images need a folder: give --out DIR")
    models = _map.load(options, model=model)
    records = Input.of(list(read_prompts(prompts, seed)))
    same_model = f" --model {shlex.quote(str(model))}" if model else ""
    next_command = "realign refine --in {out} --out final/" + same_model
    _map.run(options, models, [Generate(models)], records, {"seed": seed}, next_command=next_command)
