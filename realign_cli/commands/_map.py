"""What every map command does: load the models that the options name, then run stages over records, and report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from realign_cli.commands.options import ModelOptions, RunOptions

if TYPE_CHECKING:
    from realign_cli.commands._input import Input
    from realign_cli.registry import Models
    from realign_cli.stages.base import Stage


def load(
    options: ModelOptions,
    *,
    model: Path | None = None,
    backend: str | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Models:
    """The models of the preset, each of which is loaded when it is first used.

    `model` is as of `presets.with_model`, `backend` as of `presets.load`; `changes` are settings that options of a
    command give, by the section of the preset that they belong to.
    """
    from realign_cli import presets
    from realign_cli.console import Verbosity
    from realign_cli.registry import Models

    Verbosity(options.quiet, options.verbose).apply()
    preset = presets.with_model(presets.load(options.preset, options.overrides, backend), model)
    for name, settings in (changes or {}).items():
        if settings:
            preset = preset.with_section(name, settings)
    return Models(preset, options.device)


def map_words(maps: bool, words: str | None) -> list[str] | None:
    """The words that have attention maps beside the noun phrases; None where no maps are wanted.

    Raises:
        UsageError: words are given and no maps are wanted.
    """
    from realign_cli.errors import UsageError

    if words is not None and not maps:
        raise UsageError("--map-words says what else has maps: give --maps too")
    return list(dict.fromkeys(filter(None, map(str.strip, (words or "").split(","))))) if maps else None


def map_settings(words: Sequence[str] | None) -> dict[str, Any]:
    """What `run.json` says of attention maps; nothing where there are none, as in folders of any version."""
    return {} if words is None else {"maps": True, "map_words": list(words)}


def run(
    options: RunOptions,
    models: Models,
    stages: Sequence[Stage],
    records: Input,
    settings: Mapping[str, Any] | None = None,
    *,
    next_command: str = "",
) -> None:
    """`process` as a whole command: records go to stdout too, and it exits with 3 if some failed."""
    if process(options, models, stages, records, settings or {}, next_command=next_command, echo=True):
        raise typer.Exit(3)


def process(
    options: RunOptions,
    models: Models,
    stages: Sequence[Stage],
    records: Input,
    settings: Mapping[str, Any],
    *,
    next_command: str = "",
    echo: bool = False,
) -> int:
    """Run the stages over records, and report.

    `settings` is what decides the result besides the preset. `next_command` is what to suggest, and may name `out` and
    `baseline`; `echo` is as of `run_map`. Returns how many records failed.

    Raises:
        UsageError: options do not go together; or as `RunFolder.open` and `run_map`.
        RealignError: as these two.
    """
    from realign_cli.data.records import STDIN
    from realign_cli.data.shards import WHOLE, Shard
    from realign_cli.runs.contact_sheet import write_contact_sheet
    from realign_cli.runs.folder import RunFolder
    from realign_cli.runs.runner import run_map

    _check_combination(options)
    shard = Shard.parse(options.shard) if options.shard else WHOLE
    sizes = None if records.ids is None else shard.sizes(records.ids)
    out = None
    with ExitStack() as stack:
        if options.out:
            sections = dict.fromkeys(section for stage in stages for section in stage.sections)
            config = {"command": stages[-1].name, **settings, **models.describe(sections)}
            folder = RunFolder.open(
                options.out, config, shard=shard, sizes=sizes, finish=write_contact_sheet, overwrite=options.overwrite
            )
            out = stack.enter_context(folder)
        summary = run_map(
            records.entries,
            stages,
            out=out,
            batch_size=options.batch_size or models.preset.batch_size,
            shard=shard,
            retry=options.retry_failed,
            read_ahead=sizes is not None,
            final=sizes is not None,
            left_out=records.left_out,
            total=sizes[shard.index - 1] if sizes else None,
            quiet=options.quiet or options.as_json,
            echo=echo and not options.as_json,
        )
    if not summary.complete:
        summary.next_command = f"realign status {shlex.quote(str(options.out))}"
    elif next_command and options.out:
        baseline = "" if records.source == STDIN else f" --baseline {shlex.quote(records.source)}"
        summary.next_command = next_command.format(out=shlex.quote(str(options.out)), baseline=baseline)
        summary.next_command += options.preset_argument
    summary.show(quiet=options.quiet, as_json=options.as_json)
    return summary.failed


def _check_combination(options: RunOptions) -> None:
    """Refuse options that do not go together.

    Raises:
        UsageError: with what to do instead.
    """
    from realign_cli.errors import UsageError

    if options.out is None:
        if options.as_json:
            raise UsageError("--json writes the summary to stdout, in place of the records: give them an --out DIR")
        if options.retry_failed:
            raise UsageError("--retry-failed goes on in the folder of an earlier run: give its --out DIR")
        return
    if options.overwrite and options.retry_failed:
        raise UsageError("--overwrite starts over and --retry-failed goes on: give one of them")
    if options.overwrite and options.shard:
        raise UsageError(f"--overwrite clears what all shards of {options.out} share; delete the folder first")
