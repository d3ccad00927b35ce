from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from realign_cli.options import Named

if TYPE_CHECKING:
    from realign_cli.presets import Checkpoint, Preset


def download(
    options: Named,
    listing: Annotated[bool, typer.Option("--list", help="Only say what would be fetched.")] = False,
) -> None:
    """Fetch every checkpoint of a preset, each at its pinned revision and checked against its published sum.

    They go into HF_HOME (pytorch-fid's into TORCH_HOME). The same command goes on after a break and fetches only what
    is missing. Copy these folders to computers without a network and set HF_HUB_OFFLINE=1 there. Licences are the
    publishers': read them.

    Examples:

    realign download --list

    realign download

    realign doctor
    """
    import sys

    from realign_cli import presets
    from realign_cli.errors import RealignError
    from realign_cli.plumbing import hub, machine
    from realign_cli.plumbing.console import Verbosity, console, plain

    Verbosity(options.quiet, options.verbose).apply()
    preset = presets.load(options.preset, options.overrides)
    wanted = [checkpoint for checkpoint in preset.checkpoints if preset.users(checkpoint)]
    if not wanted:
        if not options.quiet:
            console.print(plain(f"preset '{preset.name}' needs no download"))
        return
    missing = [checkpoint for checkpoint in wanted if not is_present(checkpoint)]
    if listing:
        sys.stdout.writelines(_line(preset, checkpoint) for checkpoint in wanted)
        sys.stdout.write(f"{sum(checkpoint.gigabytes for checkpoint in missing):.1f} GB to fetch\n")
        return
    room = machine.disk(hub.home(), sum(checkpoint.gigabytes for checkpoint in missing))
    if room.remedy:
        raise RealignError(f"{room.detail}; {room.remedy}")
    for checkpoint in missing:
        commit = _fetch(checkpoint, quiet=options.quiet)
        if not options.quiet:
            console.print(plain(f"{checkpoint.name} {commit}".strip()), soft_wrap=True)
    if not options.quiet:
        console.print(plain(f"all there; next: realign doctor{options.naming}"), soft_wrap=True)


def is_present(checkpoint: Checkpoint) -> bool:
    from realign_cli.plumbing import hub

    if checkpoint.files:
        return not checkpoint.missing
    return hub.present(checkpoint.name, checkpoint.revision, checkpoint.patterns)


def _fetch(checkpoint: Checkpoint, *, quiet: bool) -> str:
    """Fetch what is missing of it; the commit, if it comes from the hub."""
    from realign_cli.errors import RealignError
    from realign_cli.plumbing import hub
    from realign_cli.plumbing.download import fetched

    if hub.offline():
        raise RealignError(
            f"HF_HUB_OFFLINE is set and {checkpoint.name} is not here; unset it where there is a network"
        )
    for file in checkpoint.missing:
        place = checkpoint.folder / file.name
        fetched(file.address, place, file.sha256, remedy=f"or put the file at {place} yourself", quiet=quiet)
    if checkpoint.files:
        return ""
    return hub.fetch(checkpoint.name, checkpoint.revision, checkpoint.patterns, quiet=quiet)


def _line(preset: Preset, checkpoint: Checkpoint) -> str:
    from realign_cli.plumbing.console import plain

    state = "here" if is_present(checkpoint) else "missing"
    revision = checkpoint.revision[:12] or "SHA-256"
    place = f"{state:8}{checkpoint.gigabytes:5.1f} GB  {checkpoint.name} ({revision})"
    return plain(f"{place} for {', '.join(preset.users(checkpoint))}; licence: {checkpoint.licence}").plain + "\n"
