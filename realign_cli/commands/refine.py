from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from realign_cli.commands import _map
from realign_cli.commands.options import (
    GuidanceOption,
    MapOptions,
    MapsOption,
    MapWordsOption,
    ModelOption,
    SizeOption,
    StepsOption,
    drawing,
)
from realign_cli.settings import RefineMethod

if TYPE_CHECKING:
    from realign_cli.stages.base import Stage


Keep = Literal["best", "final"]
KEEP_HELP = "Which image to keep: the one with the better caption reward, or always the final one."


def refine(
    options: MapOptions,
    keep: Annotated[Keep, typer.Option(help=KEEP_HELP)] = "final",
    method: Annotated[
        RefineMethod | None,
        typer.Option(help="How masks steer the attention: modulation is the paper's; by default the preset's."),
    ] = None,
    model: ModelOption = None,
    maps: MapsOption = False,
    map_words: MapWordsOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    size: SizeOption = None,
) -> None:
    """Generate each image again from the same noise, with attention that minds where objects are.

    The method 'modulation' re-weights attention inside the masks (Eq. 7-9). 'regional' lets each mask's region read the
    prompt with its own phrase in the place of all others, and where a phrase speaks of one thing keeps one of several.
    'dense' is DenseDiffusion, on which the paper's builds: no likelihoods, and what no mask holds is kept apart from
    what masks hold.

    The model, its steps, guidance and size are to be those of the images. Stages that a record has not been through
    (tag, score, segment) are run first. The folder gets, besides the images, a strip per prompt (coarse, masks, final,
    phrases) in pictures/ and contact_sheet.png of them all.

    With --maps it also gets attention maps of what is drawn again, and beside them those that generate --maps kept of
    the coarse images: pictures/ID-maps.png, maps/ID.safetensors, and in 'maps' of each record how much of a phrase's
    map lies in the mask of its object, before and after.

    Examples:

    realign refine --in coarse/ --out final/

    realign tag --in coarse/ | realign score | realign segment | realign refine --keep best --out final/
    """
    from realign_cli.commands._input import read
    from realign_cli.errors import UsageError

    if options.out is None:
        raise UsageError("images need a folder: give --out DIR")
    chosen: dict[str, Any] = {"method": method} if method else {}
    changes = {"refine": chosen, "generator": drawing(steps, guidance, size)}
    models = _map.load(options, model=model, changes=changes)
    words = _map.map_words(maps, map_words)
    records = read(options)
    from realign_cli.stages.refine import Refine  # takes seconds, and without records none are lost
    from realign_cli.stages.score import Score
    from realign_cli.stages.segment import Segment
    from realign_cli.stages.tag import Tag

    refining = Refine(models, models.region_control, keep, words)
    stages: list[Stage] = [Tag(models), Score(models), Segment(models), refining]
    next_command = "realign eval --in {out}{baseline}"
    _map.run(options, models, stages, records, {"keep": keep, **_map.map_settings(words)}, next_command=next_command)
