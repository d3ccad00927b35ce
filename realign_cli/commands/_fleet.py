"""The workers of `realign run`: processes of this computer, or threads whose models live on a Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from realign_cli import console
from realign_cli.commands.options import COARSE, FINAL
from realign_cli.commands.status import show
from realign_cli.data.records import journal_path
from realign_cli.data.shards import Shard
from realign_cli.fleet.supervisor import keep_running, together
from realign_cli.runs.folder import clear
from realign_cli.runs.lock import held
from realign_cli.runs.status import lines, status

if TYPE_CHECKING:
    from realign_cli.commands.options import Run
    from realign_cli.presets import Preset
    from realign_cli.registry import Models

Work = Callable[[Event], int]
_NOT_FOR_WORKERS = ("--eval", "--json", "--overwrite")


def processes(options: Run, out: Path, workers: int, prompts: int) -> list[int]:
    """Run this very command once per shard, in processes that are started again where they are killed.

    Returns their exit codes.
    """
    own = [word for word in sys.argv[1:] if word not in _NOT_FOR_WORKERS]

    def work(shard: Shard) -> Work:
        command = [sys.executable, "-m", "realign_cli", *own, "--workers", "1", "--shard", str(shard), "--quiet"]
        journals = [journal_path(out / name, shard) for name in (COARSE, FINAL)]

        def achieved() -> list[int]:
            return [path.stat().st_size if path.exists() else -1 for path in journals]

        return lambda stop: keep_running(command, achieved, stop)

    return _together(options, out, [work(shard) for shard in _shards(workers)], prompts)


def on_ray(
    options: Run,
    out: Path,
    workers: int,
    prompts: int,
    preset: Preset,
    address: str | None,
    make: Callable[[Run, Models], int],
) -> list[int]:
    """Call `make` once per shard, with models on a Ray cluster whose GPUs they share equally; its answers are codes."""
    from realign_cli.commands import _ray
    from realign_cli.commands._stages import models_on_gpu

    with _ray.cluster(address) as gpus:
        share = min(1.0, int(1000 * gpus / (workers * models_on_gpu())) / 1000)

        def work(shard: Shard) -> Work:
            own = replace(options, shard=str(shard), quiet=True, as_json=False, overwrite=False)
            return lambda stop: make(own, _ray.RemoteModels(preset, options.device, share, stop))

        return _together(options, out, [work(shard) for shard in _shards(workers)], prompts)


def _shards(count: int) -> list[Shard]:
    return [Shard(index, count) for index in range(1, count + 1)]


def _together(options: Run, out: Path, works: Sequence[Work], prompts: int) -> list[int]:
    folders = [out / COARSE, out / FINAL]
    if options.overwrite:
        for folder in folders:
            with held(folder):
                clear(folder)
    shown = 0
    with console.progress("run", len(folders) * prompts, quiet=options.quiet or options.as_json) as advance:

        def watch() -> None:
            nonlocal shown
            now = sum(map(lines, folders))
            advance(now - shown)
            shown = now

        codes = together(works, watch)
    if not options.quiet and not set(codes) - {0, 3}:
        show(status(out), console.console, as_json=options.as_json)
    return codes
