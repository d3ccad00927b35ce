"""`python -m realign_cli.tinyworld.train ROLE`: train one embedded model and put it into the package."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

Role = Literal[
    "vae",
    "text",
    "generator",
    "generator_xl",
    "captioner",
    "blip",
    "tagger",
    "detector",
    "masks",
    "clip",
    "negclip",
    "rewriter",
    "features",
    "reference",
]


def main(
    role: Annotated[
        Role,
        typer.Argument(
            metavar="ROLE", help=f"The model to train, or the reference of fid to measure: {', '.join(get_args(Role))}."
        ),
    ],
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for logs and for the state from which a killed run continues.")
    ] = Path("runs/tinyworld"),
) -> None:
    """Train one embedded model and put its weights, model card and SHA-256 sums into the package.

    The same command continues a run that was killed. To use two processes of one thread each, run

    torchrun --nproc-per-node 2 -m realign_cli.tinyworld.train ROLE
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    importlib.import_module(f"realign_cli.tinyworld.train.{role}").main(work / role)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command()(main)
    app(prog_name="python -m realign_cli.tinyworld.train")
