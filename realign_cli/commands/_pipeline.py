"""Prompts -> coarse images -> final images -> what they are worth: what `realign run` and `realign demo` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from realign_cli.commands import _map, report
from realign_cli.commands.eval import eval_
from realign_cli.commands.options import COARSE, FINAL

if TYPE_CHECKING:
    from realign_cli.commands.options import ModelOptions, RunOptions
    from realign_cli.data.records import Entry
    from realign_cli.registry import Models
    from realign_cli.stages.base import Stage
    from realign_cli.stages.refine import Keep

_WINDOW = 4  # batches of prompts whose tries are made together


def coarse_to_final(
    options: RunOptions, out: Path, models: Models, prompts: Sequence[Entry], *, seed: int, keep: Keep
) -> int:
    """Fill `out`/coarse and `out`/final, or the shard of them that the options name.

    The coarse images are those of generate. The final ones are those of the preset's loop, or without one those of
    refine. `prompts` were read with this `seed`. Returns how many records of the final folder failed; coarse records
    that failed are among them, for they pass through.

    Raises:
        UsageError: something is wrong with the preset, or its method of generating does not go with a loop.
    """
    from realign_cli.commands._input import Input
    from realign_cli.data.records import METADATA, Entry
    from realign_cli.errors import UsageError
    from realign_cli.runs.journal import finished_records
    from realign_cli.stages.generate import Generate
    from realign_cli.stages.refine import Refine
    from realign_cli.stages.score import Score
    from realign_cli.stages.segment import Segment
    from realign_cli.stages.tag import Tag
    from realign_cli.stages.tries import KeepTrying

    generate = Generate(models, models.phrase_control)
    for section in generate.sections:  # what is wrong with a preset is told before a folder is made,
        models.preset.section(section)
    stages: list[Stage] = [Tag(models), Score(models), Segment(models), Refine(models, models.region_control, keep)]
    loop = models.loop
    if loop.tries:
        if models.phrase_control:
            raise UsageError("further tries are plain: give --tries 0, or --set generate.method=plain")
        stages = [KeepTrying(models, models.region_control, loop)]
    coarse, final = out / COARSE, out / FINAL
    final.mkdir(parents=True, exist_ok=True)  # empty, it tells 'realign status' that more is to come
    _map.process(replace(options, out=coarse), models, [generate], Input.of(prompts), {"seed": seed})
    # Another shard's coarse images may not be there yet; of them the next step needs no more than the ids.
    made = finished_records(coarse)
    entries = [
        Entry(made.get(entry.record.id, entry.record), f"{coarse / METADATA}:{number}", coarse)
        for number, entry in enumerate(prompts, 1)
    ]
    if loop.tries:  # of a larger batch more are open after some rounds, so that the models' own batches stay full
        options = replace(options, batch_size=_WINDOW * (options.batch_size or models.preset.batch_size))
    settings = {} if loop.tries else {"keep": keep}
    return _map.process(replace(options, out=final), models, stages, Input.of(entries), settings)


def judge(options: ModelOptions, out: Path) -> int:
    """Compare final images with coarse ones, and make a page of it all; returns the exit code of the comparison."""
    from realign_cli.console import console, plain

    coarse, final, measured, page = (out / name for name in (COARSE, FINAL, "eval", report.NAME))
    code = 0
    try:
        eval_(options, source=str(final), baseline=coarse, out=measured)
    except typer.Exit as end:  # some images could not be measured, which the page shows
        code = end.exit_code
    report.write_report([coarse, final, measured], page, quiet=options.quiet or options.as_json)
    if not options.quiet and not options.as_json:
        console.print(plain(f"open {page}"), soft_wrap=True)
    return code
