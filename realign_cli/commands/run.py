from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realign_cli.commands import _map
from realign_cli.commands._pipeline import coarse_to_final, judge
from realign_cli.commands.generate import SEED_HELP
from realign_cli.commands.options import (
    COARSE,
    FINAL,
    WORKERS,
    AddressOption,
    EngineOption,
    GuidanceOption,
    ModelOption,
    RunOptions,
    SizeOption,
    StepsOption,
    arguments,
    check_address,
    drawing,
)
from realign_cli.commands.refine import KEEP_HELP, Keep

if TYPE_CHECKING:
    from realign_cli.registry import Models


def run(
    options: RunOptions,
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="A .txt, .jsonl or COCO .json file of prompts.")],
    seed: Annotated[int, typer.Option(help=SEED_HELP)] = 42,
    model: ModelOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    size: SizeOption = None,
    keep: Annotated[
        Keep | None,
        typer.Option(help=f"With --tries 0: {KEEP_HELP[0].lower()}{KEEP_HELP[1:]} By default 'final'."),
    ] = None,
    tries: Annotated[
        int | None,
        typer.Option(
            min=0, help="Most images to make of a prompt; 0 refines every image once. By default the preset's."
        ),
    ] = None,
    good_enough: Annotated[
        float | None,
        typer.Option(
            metavar="REWARD", help="Caption reward at which a prompt gets no more tries. By default the preset's."
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--eval", help="Compare coarse and final images at the end, in report.html.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of shards worked on at once.", rich_help_panel=WORKERS)
    ] = 1,
    engine: EngineOption = "local",
    address: AddressOption = None,
) -> None:
    """Make coarse and final images of prompts in one command, with as many workers as wanted.

    With --tries, further images of a prompt are made until the caption of one earns --good-enough: by mending what is
    found in the last, or by drawing again; the best is kept. With --tries 0 it is the same as generate and refine.

    The folders coarse/ and final/ in --out are the same whatever the number of workers. A worker that dies is started
    again and goes on; the same command continues what was interrupted, with any number of workers.
    Each local worker loads its own models. With --engine ray each worker has an actor per model, which restarts and
    tries again where it dies, with an equal share of the cluster's GPUs. With --shard it is one worker of many, as in
    an array of jobs: docs/fleet.md.

    Examples:

    realign run --prompts prompts.txt --out out/ --workers 2 --eval

    realign run --prompts prompts.txt --out out/ --tries 4 --good-enough 0.95

    realign run --prompts prompts.txt --out out/ --shard 3/16

    realign run --prompts prompts.txt --out out/ --engine ray --address auto --workers 8
    """
    from realign_cli.commands._stages import models_on_gpu
    from realign_cli.commands.status import show
    from realign_cli.console import console
    from realign_cli.data.prompts import read_prompts
    from realign_cli.data.shards import Shard
    from realign_cli.errors import UsageError
    from realign_cli.fleet import local, ray
    from realign_cli.fleet.supervisor import supervise
    from realign_cli.runs.status import status

    out = options.out
    if out is None:
        raise UsageError("images need a folder: give --out DIR")
    if options.shard and (workers > 1 or engine == "ray" or evaluate):
        raise UsageError("--shard makes this one worker of many: --workers, --engine and --eval do not go with it")
    check_address(address, engine)
    given = {"tries": tries, "good_enough": good_enough}
    loop = {key: value for key, value in given.items() if value is not None}
    models = _map.load(options, model=model, changes={"loop": loop, "generator": drawing(steps, guidance, size)})
    if keep and models.loop.tries:
        raise UsageError(f"--keep chooses between two images; of --tries {models.loop.tries} the best is kept anyway")
    silent = replace(options, quiet=True, as_json=False)
    entries = list(read_prompts(prompts, seed))

    def make(options: RunOptions, models: Models) -> int:
        return 3 if coarse_to_final(options, out, models, entries, seed=seed, keep=keep or "final") else 0

    if workers == 1 and engine == "local":
        codes = [make(silent if options.as_json else options, models)]
    else:
        folders = [out / COARSE, out / FINAL]
        each = [replace(silent, overwrite=False, shard=str(shard)) for shard in Shard.all(workers)]
        if engine == "ray":
            makes = [partial(make, own) for own in each]
            team = ray.workers(makes, models.preset, options.device, address, models_on_gpu())
        else:
            drawn = {"steps": steps, "guidance": guidance, "size": size}
            rest = {"prompts": prompts, "seed": seed, "model": model, "keep": keep, **drawn, **given}
            team = local.workers([["run", *arguments(run, own, **rest)] for own in each], folders)
        with team as works:
            quiet = options.quiet or options.as_json
            codes = supervise(works, folders, len(entries), overwrite=options.overwrite, quiet=quiet)
        if not options.quiet and not options.as_json and not set(codes) - {0, 3}:
            show(status(out), console)
    if options.as_json:
        show(status(out), console, as_json=True)
    code = max(codes, key=lambda code: (code not in (0, 3), code))
    if evaluate and code in (0, 3):
        code = judge(options, out) or code
    if code:
        raise typer.Exit(code)
