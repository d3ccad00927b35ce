"""Prompts -> coarse images -> final images: what `realign run` and `realign demo` share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from realign_cli.commands import _map
from realign_cli.commands.options import COARSE, FINAL

if TYPE_CHECKING:
    from realign_cli.commands.options import Run
    from realign_cli.registry import Models
    from realign_cli.stages.base import Stage
    from realign_cli.stages.refine import Keep


def coarse_to_final(
    options: Run, out: Path, models: Models, prompts: Path, *, seed: int, keep: Keep, captions: bool = False
) -> int:
    """Fill `out`/coarse and `out`/final as generate and refine do, or the shard of them that the options name.

    With `captions` the coarse images are captioned too. Returns how many records of the final folder failed; coarse
    records that failed are among them, for they pass through.
    """
    from realign_cli.data.prompts import read_prompts
    from realign_cli.data.records import METADATA, Entry
    from realign_cli.runs.contact_sheet import write_contact_sheet
    from realign_cli.runs.journal import kept_records
    from realign_cli.stages.caption_reward import CaptionReward
    from realign_cli.stages.generate import Generate
    from realign_cli.stages.refine import Refine
    from realign_cli.stages.score import Score
    from realign_cli.stages.segment import Segment
    from realign_cli.stages.tag import Tag

    def stages(models: Models) -> list[Stage]:
        described: list[Stage] = [CaptionReward(models)] if captions else []
        return [*described, Tag(models), Score(models), Segment(models), Refine(models, models.modulation, keep)]

    for section in Generate.uses:  # what is wrong with a preset is told before a folder is made,
        models.preset.section(section)
    stages(models)  # with the numbers of [refine]
    coarse, final = out / COARSE, out / FINAL
    final.mkdir(parents=True, exist_ok=True)  # empty, it tells 'realign status' that more is to come
    asked = list(read_prompts(prompts, seed))
    _map.process(
        replace(options, out=coarse), lambda m: [Generate(m)], entries=asked, models=models, echo=False, seed=seed
    )
    # Another shard's coarse images may not be there yet; of them the next step needs no more than the ids.
    made = kept_records(coarse)
    entries = [
        Entry(made.get(entry.record.id, entry.record), f"{coarse / METADATA}:{number}", coarse)
        for number, entry in enumerate(asked, 1)
    ]
    return _map.process(
        replace(options, out=final),
        stages,
        entries=entries,
        models=models,
        finish=write_contact_sheet,
        echo=False,
        keep=keep,
    )
