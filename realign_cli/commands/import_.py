from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realign_cli.options import Screen


def import_(
    options: Screen,
    source: Annotated[Path, typer.Option("--in", metavar="DIR", help="A folder of images.")],
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="Their prompts, a .txt or .jsonl file.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the records go, with the images.")],
) -> None:
    """Make records of the images of any other system, so that eval and every other command can read them.

    In a .jsonl file 'id' or 'file_name' names the image of a prompt: 000007 is the image 000007.png. Where none of the
    images bears such a name, as with a .txt file, the images in the order of their names take the prompts in theirs.

    Examples:

    realign import --in theirs/ --prompts prompts.txt --out their-records/

    realign eval --in their-records/ --baseline coarse/
    """
    from realign_cli.plumbing.layouts import import_images

    summary = import_images(source, prompts, out)
    summary.show(quiet=options.quiet, as_json=options.as_json)
    if summary.failed:
        raise typer.Exit(3)
