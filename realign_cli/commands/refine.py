from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from realign_cli.commands import _map
from realign_cli.commands.options import Map, Model

if TYPE_CHECKING:
    from realign_cli.registry import Models
    from realign_cli.stages.refine import Refine
    from realign_cli.stages.score import Score
    from realign_cli.stages.segment import Segment
    from realign_cli.stages.tag import Tag


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
    from realign_cli import presets
    from realign_cli.errors import UsageError
    from realign_cli.runs.contact_sheet import write_contact_sheet

    if options.out is None:
        raise UsageError("images need a folder: give --out DIR")

    def stages(models: Models) -> list[Tag | Score | Segment | Refine]:
        from realign_cli.stages.refine import Refine  # takes seconds, and without records none are lost
        from realign_cli.stages.score import Score
        from realign_cli.stages.segment import Segment
        from realign_cli.stages.tag import Tag

        return [Tag(models), Score(models), Segment(models), Refine(models, models.modulation, keep.value)]

    _map.run(
        options,
        stages,
        next_command="realign eval --in {out}{baseline}",
        finish=write_contact_sheet,
        adapt=lambda preset: presets.with_model(preset, model),
        keep=keep.value,
    )
