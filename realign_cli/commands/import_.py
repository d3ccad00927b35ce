from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realign_cli.commands.options import OutputOptions


def import_(
    options: OutputOptions,
    source: Annotated[Path, typer.Option("--in", metavar="DIR", help="Folder of images.")],
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="File of their prompts: .txt, .jsonl or COCO .json.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the records and the images.")],
) -> None:
    """Make records of the images of any other system, so that eval and every other command can read them.

    Where each prompt of a .jsonl file has a 'file_name', or an 'id', it names the image: 'a.png', 'train/a.png' and
    'a.jpg' are a.png, unless there are several such images, and 000007 is 000007.png or 7.png. Prompts without names,
    as in a .txt file, are paired with the images by order: 2.png comes before 10.png. So are those with ids like
    'cc500-007' if no image bears one and the images are numbered from 0 or 1. Which rule was used is said; what is
    ambiguous is refused.

    Examples:

    realign import --in theirs/ --prompts prompts.txt --out their-records/

    realign eval --in their-records/ --baseline coarse/
    """
    from realign_cli.console import Verbosity
    from realign_cli.runs.interchange import import_images

    Verbosity(options.quiet, options.verbose).apply()
    summary = import_images(source, prompts, out, quiet=options.quiet)
    summary.show(quiet=options.quiet, as_json=options.as_json)
    if summary.failed:
        raise typer.Exit(3)
