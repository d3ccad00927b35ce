from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realign_cli.commands.eval import BatchSize, Cache
from realign_cli.commands.options import ModelOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realign_cli.evaluation.ranking import Ranking, System


def compare(
    options: ModelOptions,
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Folders of records, or of eval --out, the one to compare with first."),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Metrics to judge folders of records by, as of eval. By default all of the preset's but fid.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for table.md, table.tex, table.json and table.png.")
    ] = None,
    cache: Cache = None,
    batch_size: BatchSize = None,
) -> None:
    """Rank images of the same prompts from several folders, of any origin, by each metric.

    Compared are the prompts that all folders have, paired by id; intervals are 95 % bootstraps over prompts. Win rates
    count ties as half; p is of a sign test, corrected by Holm's method for the number of pairs of a table. Passes are
    those of the generator per image, where records say what they cost. Folders that eval wrote are not measured again.

    Examples:

    realign compare coarse/ final/

    realign compare plain/ syngen/ final/ --metrics clip,blip --out comparison/

    realign compare plain-eval/ theirs-eval/ --json
    """
    from realign_cli.console import Verbosity, write_json
    from realign_cli.evaluation.ranking import rankings
    from realign_cli.evaluation.ranking_tables import as_dict

    Verbosity(options.quiet, options.verbose).apply()
    systems, failed = _systems(options, folders, metrics, cache, batch_size)
    found = rankings(systems)
    if options.as_json:
        write_json({"command": "compare", "rankings": [as_dict(one) for one in found], "failed": failed})
    else:
        show(found)
    if out:
        _write(out, found)
    if failed:
        raise typer.Exit(3)


def _systems(
    options: ModelOptions, folders: Sequence[Path], metrics: str | None, cache: Path | None, batch_size: int | None
) -> tuple[list[System], int]:
    """What each folder got, in the order given, and how many images could not be measured.

    Raises:
        UsageError: a folder is given twice, or cannot be read or measured.
    """
    from realign_cli import presets
    from realign_cli.console import console, plain
    from realign_cli.evaluation.compare import by_prompt
    from realign_cli.evaluation.evaluate import FID
    from realign_cli.evaluation.ranking import System
    from realign_cli.evaluation.report import SCORES, cost_of, scores_by_prompt
    from realign_cli.evaluation.saved import is_eval, read_passes, read_scores
    from realign_cli.evaluation.session import chosen, count, session
    from realign_cli.registry import Models

    names = folder_names(folders)
    systems, failed = {}, 0
    for name, folder in zip(names, folders, strict=True):
        if is_eval(folder):
            systems[name] = System(name, by_prompt(*read_scores(folder / SCORES)), passes=read_passes(folder))
    left = {name: folder for name, folder in zip(names, folders, strict=True) if name not in systems}
    if left:
        preset = presets.load(options.preset, options.overrides)
        wanted = [name for name in chosen(metrics, preset, reference=None) if name != FID]
        preset = preset.with_adapters(name for name in wanted if ":" in name)
        models = Models(preset, options.device)
        with session(models, cache, batch_size, count(left.values()), quiet=options.quiet) as opened:
            evaluate = opened.evaluate(wanted)
            for name, folder in left.items():
                side = opened.measure(str(folder), evaluate)
                for line in side.warnings():
                    console.print(plain(line), soft_wrap=True)
                failed += len(side.failures)
                cost = cost_of(side)
                systems[name] = System(name, scores_by_prompt(side), passes=cost["passes"] if cost else None)
    return [systems[name] for name in names], failed


def folder_names(folders: Sequence[Path]) -> list[str]:
    """What to call each folder: its last part, or all of its path where two end alike.

    Raises:
        UsageError: a folder is given twice.
    """
    from realign_cli.errors import UsageError

    ends = Counter(folder.resolve().name for folder in folders)
    names = [folder.resolve().name if ends[folder.resolve().name] == 1 else str(folder) for folder in folders]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UsageError(f"{twice[0]}: given twice")
    return names


def show(found: Sequence[Ranking]) -> None:
    """The tables on stdout."""
    import sys

    from rich.console import Console

    from realign_cli.console import plain, table
    from realign_cli.evaluation.ranking_tables import cells, columns, duel_cells, notes, title
    from realign_cli.evaluation.report import PIPE_WIDTH

    screen = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    for ranking in found:
        screen.print(plain(title(ranking)), soft_wrap=True)
        screen.print(table(columns(ranking), cells(ranking)), soft_wrap=True)
        if len(ranking.duels) > 1:
            rows = duel_cells(ranking)
            screen.print(table(["wins", *(row[0] for row in rows)], rows), soft_wrap=True)
        screen.print()
    for line in notes(found):
        screen.print(plain(line), soft_wrap=True)


def _write(out: Path, found: Sequence[Ranking]) -> None:
    from realign_cli.evaluation import plots
    from realign_cli.evaluation.ranking_tables import as_dict, latex, markdown
    from realign_cli.files import atomic
    from realign_cli.runs.lock import folder_lock

    with folder_lock(out):
        atomic.write_text(out / "table.md", markdown(found))
        atomic.write_text(out / "table.tex", latex(found))
        atomic.write_json(out / "table.json", [as_dict(one) for one in found])
        atomic.write_png(out / "table.png", plots.standings(found))
