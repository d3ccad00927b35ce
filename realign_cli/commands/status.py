from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realign_cli.commands.options import OutputOptions

if TYPE_CHECKING:
    from rich.console import Console

    from realign_cli.runs.status import Status

_UNFINISHED = 4


def status(
    options: OutputOptions,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of a command, or of realign run.")],
) -> None:
    """Tell how many records are done, failed and left, per stage and shard, and who is at work on them.

    Of the records of a loop it tells how many are good, and how many have exhausted their tries.

    Loads no model and changes nothing, so it can be asked at any time and from any computer that sees the folder. Exit
    codes: 0 all done, 3 all done but some records failed (--retry-failed tries them again), 4 not all done.

    Examples:

    realign status out/

    realign status out/ --json | jq '.[].shards[] | select(.left > 0)'
    """
    from rich.console import Console

    from realign_cli.runs.status import status

    runs = status(folder)
    if options.as_json or not options.quiet:
        show(runs, Console(highlight=False), as_json=options.as_json)
    if not all(run.complete for run in runs):
        raise typer.Exit(_UNFINISHED)
    if any(run.failed for run in runs):
        raise typer.Exit(3)


def show(runs: list[Status], screen: Console, *, as_json: bool = False) -> None:
    """A table with a row per shard and what went wrong, or on stdout one line of JSON."""
    from realign_cli.console import plain, table, write_json

    if as_json:
        write_json([_as_dict(run) for run in runs])
        return
    tried = any(part.good is not None for run in runs for part in run.parts)
    rows = [
        (
            run.command,
            str(part.shard),
            str(part.done),
            str(part.failed),
            "?" if part.left is None else str(part.left),
            *(("" if part.good is None else f"{part.good}", f"{part.exhausted or ''}") if tried else ()),
            str(part.holder or ("" if run.complete else "nobody")),
        )
        for run in runs
        for part in run.parts
    ]
    ends = ("good", "exhausted") if tried else ()
    screen.print(table(("stage", "shard", "done", "failed", "left", *ends, "at work"), rows), soft_wrap=True)
    for run in runs:
        for (stage, kind, recovered), count in run.failures.most_common():
            screen.print(
                plain(f"{run.folder}: {count} x {stage}: {kind}{' (recovered)' if recovered else ''}"), soft_wrap=True
            )


def _as_dict(run: Status) -> dict[str, Any]:
    shards = [
        {
            "shard": str(part.shard),
            "done": part.done,
            "failed": part.failed,
            "left": part.left,
            **({} if part.good is None else {"good": part.good, "exhausted": part.exhausted}),
            "at_work": asdict(part.holder) if part.holder else None,
        }
        for part in run.parts
    ]
    failures = [
        {"stage": stage, "kind": kind, "recovered": recovered, "count": count}
        for (stage, kind, recovered), count in run.failures.items()
    ]
    return {
        "folder": str(run.folder),
        "stage": run.command,
        "complete": run.complete,
        "shards": shards,
        "failures": failures,
    }
