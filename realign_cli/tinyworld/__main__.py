"""`python -m realign_cli.tinyworld COMMAND`: the tools of the embedded world."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from realign_cli.errors import RealignError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.callback()
def main() -> None:
    """Tools of the embedded world of coloured shapes."""


@app.command()
def render(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the records and their images.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of scenes.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed for all randomness.")] = 1,
) -> None:
    """Draw held-out scenes of two things with true captions, as reference images for the Fréchet distance."""
    from itertools import islice

    from PIL import Image

    from realign_cli.files import atomic
    from realign_cli.records import Record
    from realign_cli.runs.folder import RunFolder, image_name
    from realign_cli.tinyworld import scenes

    drawn = list(islice(scenes.scenes(seed, held_out=True, count=2), count))
    ids = [f"{number:06d}" for number in range(count)]
    records = [
        Record(file_name=image_name(i), text=scene.caption, id=i, seed=seed)
        for i, scene in zip(ids, drawn, strict=True)
    ]
    with RunFolder.open(out, {"command": "render", "n": count, "seed": seed}) as folder:
        folder.begin(records)
        for record, scene in zip(records, drawn, strict=True):
            atomic.write_png(out / record.file_name, Image.fromarray(scenes.render(scene)))
            folder.add(record)
        folder.complete(ids)


if __name__ == "__main__":
    try:
        app(prog_name="python -m realign_cli.tinyworld")
    except RealignError as error:
        from realign_cli.console import console, plain

        console.print(plain(f"python -m realign_cli.tinyworld: {error}"), style="red", soft_wrap=True)
        sys.exit(error.exit_code)
