from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realign_cli.commands import _map
from realign_cli.commands.eval import eval_
from realign_cli.options import Common, Run

if TYPE_CHECKING:
    from realign_cli.records import Stage
    from realign_cli.registry import Models

_PROMPTS = 16


def demo(
    options: Common,
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
    from realign_cli.plumbing import atomic
    from realign_cli.plumbing.console import console, plain
    from realign_cli.plumbing.folder import sheet_path
    from realign_cli.plumbing.sheet import write_contact_sheet
    from realign_cli.plumbing.source import count_records, read_prompts, read_records
    from realign_cli.stages.caption_reward import CaptionReward
    from realign_cli.stages.generate import Generate
    from realign_cli.stages.refine import Refine
    from realign_cli.stages.score import Score
    from realign_cli.stages.segment import Segment
    from realign_cli.stages.tag import Tag
    from realign_cli.tinyworld.scenes import held_out_prompts

    coarse, final = out / "coarse", out / "final"
    if prompts is None:
        prompts = out / "prompts.txt"
        if not prompts.exists():
            atomic.write_text(prompts, "\n".join(held_out_prompts()[:_PROMPTS]) + "\n")

    def run(folder: Path) -> Run:
        return Run(
            preset=options.preset,
            overrides=options.overrides,
            device=options.device,
            quiet=options.quiet,
            verbose=options.verbose,
            as_json=options.as_json,
            out=folder,
            overwrite=overwrite,
        )

    def stages(models: Models) -> list[Stage]:
        refine = Refine(models, models.modulation, "best")
        return [CaptionReward(models), Tag(models), Score(models), Segment(models), refine]

    entries = list(read_prompts(prompts, seed))
    _map.process(run(coarse), lambda m: [Generate(m)], entries=entries, total=len(entries), echo=False, seed=seed)
    failed = _map.process(  # of the coarse records too: they pass through
        run(final),
        stages,
        entries=read_records(str(coarse)),
        total=count_records(str(coarse)),
        finish=write_contact_sheet,
        echo=False,
        keep="best",
    )
    eval_(options, source=str(final), baseline=coarse, out=out / "eval")
    if not options.quiet:
        console.print(plain(f"open {sheet_path(final)}"), soft_wrap=True)
    if failed:
        raise typer.Exit(3)
