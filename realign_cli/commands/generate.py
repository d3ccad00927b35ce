from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from realign_cli.commands import _map
from realign_cli.commands.options import (
    GuidanceOption,
    MapsOption,
    MapWordsOption,
    ModelOption,
    RunOptions,
    SizeOption,
    StepsOption,
    drawing,
)
from realign_cli.settings import GenerateMethod

SEED_HELP = "Seed; with the id of a prompt it decides the noise of its image."


def generate(
    options: RunOptions,
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="A .txt, .jsonl or COCO .json file of prompts.")],
    seed: Annotated[int, typer.Option(help=SEED_HELP)] = 42,
    images_per_prompt: Annotated[
        int, typer.Option(min=1, help="Number of images of each prompt, each from its own noise.")
    ] = 1,
    method: Annotated[
        GenerateMethod | None,
        typer.Option(help="How the prompt's phrases are minded; plain is not at all. By default the preset's."),
    ] = None,
    model: ModelOption = None,
    maps: MapsOption = False,
    map_words: MapWordsOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    size: SizeOption = None,
) -> None:
    """Generate coarse images of prompts, one of each or several.

    A .txt file holds one prompt a line; a .jsonl file holds objects with 'prompt', 'text' or 'caption', and may give
    each an 'id', a 'seed', and what 'realign rewrite' made of it. The captions .json of COCO is read too. The folder
    that comes out is a Hugging Face imagefolder.

    With --images-per-prompt 3 a prompt 000007 has the records 000007, 000007-1 and 000007-2, each with the prompt_id
    000007. The first is the image that the prompt has alone, and more of them leave the others as they are.

    Other methods than 'plain' go by the noun phrases of a prompt, without training and without masks. 'structure' is
    StructureDiffusion: each phrase is also read as it is alone. 'attend' (Attend-and-Excite), 'syngen' and 'predicated'
    (Predicated Diffusion) look in the first steps where the image attends to the words, and move it until things are
    there and have their own attributes. Their numbers are the sections of these names in the preset.

    With --maps the folder gets attention maps: pictures/ID-maps.png to look at and maps/ID.safetensors. The images stay
    the same. refine --maps sets its own beside them.

    Examples:

    realign generate --prompts prompts.txt --out coarse/

    realign generate --prompts prompts.txt --method attend --set attend.step_size=10.0 --out attend/

    realign generate --prompts prompts.txt --model runs/coarse --steps 30 --size 640x512 --out coarse/

    realign generate --prompts prompts.txt --out coarse/ | realign tag | realign score
    """
    import shlex

    from realign_cli.commands._input import Input
    from realign_cli.data.prompts import read_prompts, with_draws
    from realign_cli.errors import UsageError
    from realign_cli.stages.generate import Generate

    if options.out is None:
        raise UsageError("images need a folder: give --out DIR")
    drawn = drawing(steps, guidance, size)
    changes: dict[str, dict[str, Any]] = {"generate": {"method": method} if method else {}, "generator": drawn}
    models = _map.load(options, model=model, changes=changes)
    words = _map.map_words(maps, map_words)
    stage = Generate(models, models.phrase_control, words)
    records = Input.of(list(with_draws(list(read_prompts(prompts, seed)), images_per_prompt)))
    same = {"model": model, **drawn} if model else drawn
    next_command = "realign refine --in {out} --out final/"
    next_command += "".join(f" --{name} {shlex.quote(str(value))}" for name, value in same.items())
    settings = {"seed": seed, **_map.map_settings(words)}
    if images_per_prompt > 1:  # folders of one image each, of any version, do not say so
        settings["images_per_prompt"] = images_per_prompt
    _map.run(options, models, [stage], records, settings, next_command=next_command)
