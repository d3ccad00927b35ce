from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realign_cli.commands import _map
from realign_cli.commands._pipeline import coarse_to_final
from realign_cli.commands.eval import eval_
from realign_cli.commands.options import COARSE, FINAL, Embedded, Run

_PROMPTS = 16


def demo(
    options: Embedded,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes.")] = Path("realign-demo"),
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prompts of your own instead of the built-in ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help="With a prompt's id it decides the noise of its image.")] = 42,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over in a folder of an earlier run.")] = False,
) -> None:
    """See the whole method work on this computer: embedded models, no GPU, no download.

    Coarse images are generated, captioned, tagged, scored, segmented and refined, and coarse is compared with final.
    Open final/pictures/contact_sheet.png in the folder that comes out.

    Examples:

    realign demo

    realign demo --prompts my_prompts.txt --out my-demo/
    """
    from realign_cli.console import console, plain
    from realign_cli.data.prompts import read_prompts
    from realign_cli.files import atomic
    from realign_cli.runs.folder import sheet_path
    from realign_cli.runs.lock import held
    from realign_cli.tinyworld.scenes import held_out_prompts

    models = _map.load(options)
    if prompts is None:
        prompts = out / "prompts.txt"
        if not prompts.exists():
            with held(out):
                atomic.write_text(prompts, "\n".join(held_out_prompts()[:_PROMPTS]) + "\n")
    run = Run(**vars(options), overwrite=overwrite)
    entries = list(read_prompts(prompts, seed))
    failed = coarse_to_final(run, out, models, entries, seed=seed, keep="best", captions=True)
    eval_(options, source=str(out / FINAL), baseline=out / COARSE, out=out / "eval")
    if not options.quiet:
        console.print(plain(f"open {sheet_path(out / FINAL)}"), soft_wrap=True)
    if failed:
        raise typer.Exit(3)
