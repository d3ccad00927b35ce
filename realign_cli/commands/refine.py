from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from realign_cli.commands import _map
from realign_cli.commands.options import Map, Model

if TYPE_CHECKING:
    from realign_cli.stages.base import Stage


class Keep(StrEnum):
    best = "best"
    final = "final"


def refine(
    options: Map,
    keep: Annotated[
        Keep, typer.Option(help="The image with the better caption reward, or always the final one.")
    ] = Keep.final,
    model: Model = None,
) -> None:
    """Generate each image again from the same noise with re-weighted attention (Eq. 7-9).

    Stages that a record has not been through (tag, score, segment) are run first. The folder gets, besides the
    images, a strip per prompt (coarse, masks, final, phrases) in pictures/ and contact_sheet.png of them all.

    Examples:

    realign refine --in coarse/ --out final/

    realign tag --in coarse/ | realign score | realign segment | realign refine --keep best --out final/
    """
    from realign_cli.commands._input import read
    from realign_cli.errors import UsageError

    if options.out is None:
        raise UsageError("images need a folder: give --out DIR")
    models = _map.load(options, model=model)
    records = read(options)
    from realign_cli.stages.refine import Refine  # takes seconds, and without records none are lost
    from realign_cli.stages.score import Score
    from realign_cli.stages.segment import Segment
    from realign_cli.stages.tag import Tag

    stages: list[Stage] = [Tag(models), Score(models), Segment(models), Refine(models, models.modulation, keep.value)]
    next_command = "realign eval --in {out}{baseline}"
    _map.run(options, models, stages, records, {"keep": keep.value}, next_command=next_command)
