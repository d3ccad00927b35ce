from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from realign_cli.commands import _map
from realign_cli.commands._pipeline import coarse_to_final, judge
from realign_cli.commands.generate import SEED_HELP
from realign_cli.commands.options import RunOptions, TinyOptions

_PROMPTS, _TRIES = 16, 4


def demo(
    options: TinyOptions,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything.")] = Path("realign-demo"),
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prompts of your own instead of the built-in ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help=SEED_HELP)] = 42,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the earlier run in --out and start over.")
    ] = False,
) -> None:
    """See the whole method work on this computer: embedded models, no GPU, no download.

    An image is drawn of each prompt and captioned. Where the caption does not say what the prompt says, objects are
    found, and the image is mended or drawn again, four images at most; the best is kept. The first images are compared
    with the final ones. Open report.html in the folder that comes out: it shows every prompt.

    Examples:

    realign demo

    realign demo --prompts my_prompts.txt --out my-demo/
    """
    from realign_cli.data.prompts import read_prompts
    from realign_cli.files import atomic
    from realign_cli.runs.lock import folder_lock
    from realign_cli.tinyworld.scenes import held_out_prompts

    models = _map.load(options, changes={"loop": {"tries": _TRIES}})
    if prompts is None:
        prompts = out / "prompts.txt"
        if not prompts.exists():
            with folder_lock(out):
                atomic.write_text(prompts, "\n".join(held_out_prompts()[:_PROMPTS]) + "\n")
    run = RunOptions(**vars(options), overwrite=overwrite)
    if options.as_json:
        run = replace(run, quiet=True, as_json=False)
    entries = list(read_prompts(prompts, seed))
    failed = coarse_to_final(run, out, models, entries, seed=seed, keep="best")
    if judge(options, out) or failed:
        raise typer.Exit(3)
