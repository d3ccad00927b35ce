"""What every map command does: options -> models, stages, records in, records out."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from realign_cli.commands.options import COARSE, Map, Run

if TYPE_CHECKING:
    from realign_cli.data.records import Entry
    from realign_cli.presets import Preset
    from realign_cli.registry import Models
    from realign_cli.stages.base import Stage


def run(options: Run, stages_of: Callable[[Models], Sequence[Stage]], **settings: Any) -> None:
    """`process` as a whole command: exits with 3 if some records failed."""
    if process(options, stages_of, **settings):
        raise typer.Exit(3)


def process(
    options: Run,
    stages_of: Callable[[Models], Sequence[Stage]],
    *,
    entries: Sequence[Entry] | None = None,
    models: Models | None = None,
    next_command: str | None = None,
    finish: Callable[[Path], object] | None = None,
    echo: bool = True,
    adapt: Callable[[Preset], Preset] | None = None,
    backend: str | None = None,
    **config: Any,
) -> int:
    """Run the stages over `entries`, or over the records that `--in` names or `_input` finds, and report.

    `models` are those of the preset if not given. `backend` is as of `presets.load`, `adapt` what the command line does
    to the preset, `config` what the command adds to the settings that decide its result; `finish` is called with the
    completed folder. `next_command` may name `out` and `baseline`. Returns how many records failed.
    """
    from realign_cli import presets
    from realign_cli.commands import _input
    from realign_cli.console import Verbosity
    from realign_cli.data.records import STDIN, read_records, record_ids
    from realign_cli.data.shards import WHOLE, Shard
    from realign_cli.registry import Models
    from realign_cli.runs.folder import RunFolder
    from realign_cli.runs.runner import run_map

    Verbosity(options.quiet, options.verbose).apply()
    if models is None:
        preset = presets.load(options.preset, options.overrides, backend)
        models = Models(adapt(preset) if adapt else preset, options.device)
    if entries is None:
        assert isinstance(options, Map)
        options = replace(options, source=_input.records(options.source, (COARSE,), quiet=options.quiet))
    stages = stages_of(models)
    shard = Shard.parse(options.shard) if options.shard else WHOLE
    if entries is None:
        assert isinstance(options, Map) and options.source
        given, ids = read_records(options.source), record_ids(options.source)
    else:
        given, ids = iter(entries), [entry.record.id for entry in entries]
    sizes = None if ids is None else shard.sizes(ids)
    _check_combination(options)
    out = None
    with ExitStack() as stack:
        if options.out:
            sections = dict.fromkeys(section for stage in stages for section in stage.uses)
            settings = {"command": stages[-1].name, **config, **models.describe(sections)}
            folder = RunFolder.open(
                options.out, settings, shard=shard, sizes=sizes, finish=finish, overwrite=options.overwrite
            )
            out = stack.enter_context(folder)
        summary = run_map(
            given,
            stages,
            out=out,
            batch_size=options.batch_size or models.preset.batch_size,
            shard=shard,
            retry=options.retry_failed,
            read_ahead=sizes is not None,
            final=sizes is not None,
            total=sizes[shard.index - 1] if sizes else None,
            quiet=options.quiet or options.as_json,
            echo=echo,
        )
    if not summary.complete:
        summary.next_command = f"realign status {shlex.quote(str(options.out))}"
    elif next_command and options.out:
        source = options.source if isinstance(options, Map) and options.source else STDIN
        baseline = "" if source == STDIN else f" --baseline {shlex.quote(source)}"
        summary.next_command = next_command.format(out=shlex.quote(str(options.out)), baseline=baseline)
        summary.next_command += options.naming
    summary.show(quiet=options.quiet, as_json=options.as_json)
    return summary.failed


def _check_combination(options: Run) -> None:
    """Refuse options that do not go together.

    Raises:
        UsageError: with what to do instead.
    """
    from realign_cli.errors import UsageError

    if options.out is None:
        if options.retry_failed:
            raise UsageError("--retry-failed goes on in the folder of an earlier run: give its --out DIR")
        return
    if options.overwrite and options.retry_failed:
        raise UsageError("--overwrite starts over and --retry-failed goes on: give one of them")
    if options.overwrite and options.shard:
        raise UsageError(f"--overwrite clears what all shards of {options.out} share; delete the folder first")
    if isinstance(options, Map) and options.source and options.source != "-":
        source = Path(options.source)
        folder = source if source.is_dir() else source.parent
        if folder.resolve().is_relative_to(options.out.resolve()):
            raise UsageError(f"--in {options.source} lies in --out {options.out}; give --out another folder")
