"""What every map command does: options -> models, stages, records in, records out."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from realign_cli.options import Map, Run

if TYPE_CHECKING:
    from realign_cli.plumbing.source import Entry
    from realign_cli.presets import Preset
    from realign_cli.records import Stage
    from realign_cli.registry import Models


def run(options: Run, stages_of: Callable[[Models], Sequence[Stage]], **settings: Any) -> None:
    """`process` as a whole command: exits with 3 if some records failed."""
    if process(options, stages_of, **settings):
        raise typer.Exit(3)


def process(
    options: Run,
    stages_of: Callable[[Models], Sequence[Stage]],
    *,
    entries: Iterable[Entry] | None = None,
    total: int | None = None,
    next_command: str | None = None,
    finish: Callable[[Path], object] | None = None,
    echo: bool = True,
    adapt: Callable[[Preset], Preset] | None = None,
    backend: str | None = None,
    **config: Any,
) -> int:
    """Run the stages over `entries`, or over the records that `--in` names, and report.

    `backend` is as of `presets.load`, `adapt` what the command line does to the preset, `config` what the command adds
    to the settings that decide its result; `finish` is called with the completed folder. Returns how many records
    failed.
    """
    from realign_cli import presets
    from realign_cli.plumbing import source
    from realign_cli.plumbing.console import Verbosity
    from realign_cli.plumbing.folder import RunFolder
    from realign_cli.plumbing.run import run_map
    from realign_cli.registry import Models

    Verbosity(options.quiet, options.verbose).apply()
    preset = presets.load(options.preset, options.overrides, backend)
    models = Models(adapt(preset) if adapt else preset, options.device)
    stages = stages_of(models)
    if entries is None:
        assert isinstance(options, Map)
        entries, total = source.read_records(options.source), source.count_records(options.source)
    if options.shard:
        shard = source.Shard.parse(options.shard)
        entries, total = (entry for entry in entries if shard.owns(entry.record.id)), None
        config["shard"] = options.shard
    out = None
    if options.out:
        _not_in_place(options)
        sections = dict.fromkeys(section for stage in stages for section in stage.uses)
        settings = {"command": stages[-1].name, **config, **models.describe(sections)}
        out = RunFolder(options.out, settings, overwrite=options.overwrite)
    summary = run_map(
        entries,
        stages,
        out=out,
        batch_size=options.batch_size or models.preset.batch_size,
        total=total,
        quiet=options.quiet,
        echo=echo,
    )
    if finish and options.out and summary.records:
        finish(options.out)
    if next_command and options.out:
        named = "" if options.preset == "tiny" else f" --preset {shlex.quote(options.preset)}"
        summary.next_command = next_command.format(out=shlex.quote(str(options.out))) + named
    summary.show(quiet=options.quiet, as_json=options.as_json)
    return summary.failed


def _not_in_place(options: Run) -> None:
    from realign_cli.errors import UsageError

    if isinstance(options, Map) and options.source != "-" and options.out:
        source = Path(options.source)
        folder = source if source.is_dir() else source.parent
        if folder.resolve().is_relative_to(options.out.resolve()):
            raise UsageError(f"--in {options.source} lies in --out {options.out}; give --out another folder")
