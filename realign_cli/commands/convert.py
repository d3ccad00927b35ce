from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from realign_cli.commands.options import PresetOptions


def convert(
    options: PresetOptions,
    model: Annotated[Literal["ram"], typer.Argument(metavar="ram", help="The model whose checkpoint is converted.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE.pth", help="The published file; by default the downloaded one.")
    ] = None,
) -> None:
    """Write what is used of a published checkpoint as model.safetensors beside it, once.

    RAM's file of 5.6 GB also holds a captioner; 0.9 GB of it recognise. Both load, the new file faster, and the old one
    may then be deleted.

    Examples:

    realign convert ram

    realign convert ram checkpoints/ram_swin_large_14m.pth
    """
    from realign_cli import presets, registry
    from realign_cli.console import Verbosity, console, plain, write_json
    from realign_cli.errors import UsageError
    from realign_cli.files import atomic
    from realign_cli.runs.lock import folder_lock

    Verbosity(options.quiet, options.verbose).apply()
    if file is None:
        preset = presets.load(options.preset, options.overrides)
        downloaded = preset.checkpoint(f"{presets.FETCHED}{model}")
        if downloaded is None:
            raise UsageError(f"preset '{preset.name}' downloads no {model}; give the FILE.pth, or --preset sd15")
        file = downloaded.folder / next(one.name for one in downloaded.files if one.instead)
    if not file.is_file():
        raise UsageError(f"{file}: no such file; 'realign download --preset {options.preset}' fetches it")
    target = file.with_name("model.safetensors")
    with folder_lock(target.parent), atomic.writing(target) as staging:
        registry.convert(model, file, Path(staging.name))
    if options.as_json:
        write_json({"command": "convert", "out": str(target)})
    elif not options.quiet:
        console.print(plain(f"wrote {target}"), soft_wrap=True)
