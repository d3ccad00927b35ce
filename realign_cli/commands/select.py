from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from realign_cli.commands import _map
from realign_cli.commands.options import MapOptions


def select(
    options: MapOptions,
    by: Annotated[
        str, typer.Option(metavar="FIELD", help="Number to go by: its path in the record, or a column of --scores.")
    ] = "caption.reward",
    top: Annotated[int, typer.Option(min=1, metavar="K", help="Number of records of each prompt to keep.")] = 1,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File scores.jsonl that realign eval wrote of these records.")
    ] = None,
) -> None:
    """Keep the best images of each prompt, by the caption reward or any other number.

    Of the records with one prompt_id those with the highest number stay, with their ids; of equal ones, the earlier
    draws. They must stand side by side, as generate writes them; else it is refused. A prompt whose images have all
    failed keeps one failed record. Adds 'select' with the field, its value, and of how many images this is the best.

    Examples:

    realign caption-reward --in coarse/ | realign select --out best/

    realign select --in refined/ --by refine.final.reward --out best/

    realign select --in coarse/ --by clip --scores eval/scores.jsonl --top 2 --out best/
    """
    from realign_cli.commands._input import read

    models = _map.load(options)
    records = read(options)
    from realign_cli.data.records import STDIN, read_records
    from realign_cli.runs.selection import Choice
    from realign_cli.stages.select import Select

    choice = Choice(by, top, scores)
    ids = None  # a file is gone through beforehand, so that what is wrong with it is told before a folder is made
    if records.source != STDIN:
        ids = [entry.record.prompt_key for entry in choice(read_records(records.source))]
    records = replace(records, entries=choice(records.entries), ids=ids, left_out=choice.left_out)
    settings = {"by": by, "top": top, **({"scores": str(scores)} if scores else {})}
    _map.run(options, models, [Select()], records, settings, next_command="realign eval --in {out}{baseline}")
