from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realign_cli.commands import _map
from realign_cli.commands._pipeline import coarse_to_final
from realign_cli.commands.eval import eval_
from realign_cli.commands.options import COARSE, FINAL, Model, Run, arguments
from realign_cli.commands.refine import Keep

if TYPE_CHECKING:
    from realign_cli.registry import Models

_WORKERS = "Workers"


class Engine(StrEnum):
    local = "local"
    ray = "ray"


def run(
    options: Run,
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="A .txt or .jsonl file of prompts.")],
    seed: Annotated[int, typer.Option(help="With a prompt's id it decides the noise of its image.")] = 42,
    model: Model = None,
    keep: Annotated[
        Keep, typer.Option(help="The image with the better caption reward, or always the final one.")
    ] = Keep.final,
    evaluate: Annotated[bool, typer.Option("--eval", help="Compare coarse and final at the end.")] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="How many shards are made at once.", rich_help_panel=_WORKERS)
    ] = 1,
    engine: Annotated[
        Engine, typer.Option(help="Processes of this computer, or actors of a Ray cluster.", rich_help_panel=_WORKERS)
    ] = Engine.local,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|auto", help="Of a running Ray cluster, else one is started.", rich_help_panel=_WORKERS
        ),
    ] = None,
) -> None:
    """Make coarse and final images of prompts in one command, with as many workers as wanted.

    The same as generate and refine: the folders coarse/ and final/ in --out, whatever the number of workers. A worker
    that dies is started again and goes on; the same command continues what was interrupted, with any number of workers.
    Each local worker loads its own models. With --engine ray each worker has an actor per model, which restarts and
    tries again where it dies, with an equal share of the cluster's GPUs. With --shard it is one worker of many, as in
    an array of jobs: docs/fleet.md.

    Examples:

    realign run --prompts prompts.txt --out out/ --workers 2 --eval

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
    if options.shard and (workers > 1 or engine is Engine.ray or evaluate):
        raise UsageError("--shard makes this one worker of many: --workers, --engine and --eval do not go with it")
    if address and engine is not Engine.ray:
        raise UsageError("--address names a Ray cluster: give --engine ray too")
    models = _map.load(options, model=model)
    entries = list(read_prompts(prompts, seed))

    def make(options: Run, models: Models) -> int:
        return 3 if coarse_to_final(options, out, models, entries, seed=seed, keep=keep.value) else 0

    if workers == 1 and engine is Engine.local:
        codes = [make(options, models)]
    else:
        folders = [out / COARSE, out / FINAL]
        one = replace(options, quiet=True, as_json=False, overwrite=False)
        each = [replace(one, shard=str(shard)) for shard in Shard.all(workers)]
        if engine is Engine.ray:
            makes = [partial(make, own) for own in each]
            team = ray.workers(makes, models.preset, options.device, address, models_on_gpu())
        else:
            given = {"prompts": prompts, "seed": seed, "model": model, "keep": keep}
            team = local.workers([["run", *arguments(run, own, **given)] for own in each], folders)
        with team as works:
            quiet = options.quiet or options.as_json
            codes = supervise(works, folders, len(entries), overwrite=options.overwrite, quiet=quiet)
        if not options.quiet and not set(codes) - {0, 3}:
            show(status(out), console, as_json=options.as_json)
    code = max(codes, key=lambda code: (code not in (0, 3), code))
    if evaluate and code in (0, 3):
        eval_(options, source=str(out / FINAL), baseline=out / COARSE, out=out / "eval")
    if code:
        raise typer.Exit(code)
