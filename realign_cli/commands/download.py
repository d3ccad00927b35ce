from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realign_cli.commands.options import PresetOptions

if TYPE_CHECKING:
    from realign_cli.presets import Checkpoint, Preset


def download(
    options: PresetOptions,
    listing: Annotated[bool, typer.Option("--list", help="Only list what would be downloaded.")] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            "--in", metavar="DIR", help="Folder of COCO's unpacked val2014, if its images need not be downloaded."
        ),
    ] = None,
) -> None:
    """Fetch every checkpoint of a preset, each at its pinned revision and checked against its published sum.

    They go into HF_HOME (pytorch-fid's into TORCH_HOME). The same command goes on after a break and fetches only what
    is missing. Copy these folders to computers without a network and set HF_HUB_OFFLINE=1 there. Licences are the
    publishers': read them.

    Where fid compares with COCO 2014 val, the statistics of the 5,000 images that 'realign prompts coco' takes captions
    of are made once, and stay in the user's cache folder; --set fid.reference= does without.

    Examples:

    realign download --list

    realign download

    realign download --preset inception --in val2014/

    realign doctor
    """
    import sys
    from dataclasses import replace

    from realign_cli import presets
    from realign_cli.commands import _checks
    from realign_cli.console import Verbosity, console, plain, write_json
    from realign_cli.errors import RealignError, UsageError
    from realign_cli.evaluation.reference import make_statistics
    from realign_cli.files import hub
    from realign_cli.registry import Models

    Verbosity(options.quiet, options.verbose).apply()
    preset = presets.load(options.preset, options.overrides)
    wanted = [checkpoint for checkpoint in preset.checkpoints if preset.users(checkpoint)]
    wanted.sort(key=lambda checkpoint: checkpoint.kind == "dataset")  # what looks at its images comes before it
    if images and not any(checkpoint.kind == "dataset" for checkpoint in wanted):
        raise UsageError(f"--in {images}: preset '{preset.name}' makes no statistics of COCO's images")
    if not wanted and not options.as_json:
        if not options.quiet:
            console.print(plain(f"preset '{preset.name}' needs no download"))
        return
    missing = [checkpoint for checkpoint in wanted if not is_present(preset, checkpoint)]
    fetching = [
        checkpoint
        for checkpoint in missing
        if not is_fetched(checkpoint) and not (images and checkpoint.kind == "dataset")
    ]
    if listing and options.as_json:
        write_json(_as_dicts(preset, wanted))
        return
    if listing:
        sys.stdout.writelines(_line(preset, checkpoint) for checkpoint in wanted)
        sys.stdout.write(f"{sum(checkpoint.gigabytes for checkpoint in fetching):.1f} GB to fetch\n")
        return
    room = _checks.disk(hub.home(), sum(checkpoint.gigabytes for checkpoint in fetching))
    if room.remedy:
        raise RealignError(f"{room.detail}; {room.remedy}")
    for checkpoint in missing:
        if checkpoint in fetching:
            commit = _fetch(checkpoint, quiet=options.quiet)
            if not options.quiet:
                console.print(plain(f"{checkpoint.name} {commit}".strip()), soft_wrap=True)
        if checkpoint.kind == "dataset":  # the one model that looks at them runs without a GPU too
            models = Models(replace(preset, needs_gpu=False))
            made = make_statistics(models, checkpoint, images, quiet=options.quiet)
            if not options.quiet:
                console.print(plain(f"made {made}"), soft_wrap=True)
    if options.as_json:
        write_json(_as_dicts(preset, wanted))
    elif not options.quiet:
        console.print(plain(f"all there; next: realign doctor{options.preset_argument}"), soft_wrap=True)


def is_present(preset: Preset, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint was fetched, or what is made of a set of images."""
    from realign_cli.evaluation.reference import statistics_of

    if checkpoint.kind == "dataset":
        return statistics_of(preset, checkpoint).is_file()
    return is_fetched(checkpoint)


def is_fetched(checkpoint: Checkpoint) -> bool:
    """Whether all files of a checkpoint are here."""
    from realign_cli.files import hub

    if checkpoint.files:
        return not checkpoint.missing
    return hub.snapshot(checkpoint.name, checkpoint.revision, checkpoint.patterns, checkpoint.kind) is not None


def _fetch(checkpoint: Checkpoint, *, quiet: bool) -> str:
    """Fetch what is missing of it; the commit, if it comes from the hub."""
    from realign_cli.errors import RealignError
    from realign_cli.files import hub
    from realign_cli.files.download import download_file

    if hub.offline():
        raise RealignError(
            f"HF_HUB_OFFLINE is set and {checkpoint.name} is not here; unset it where there is a network"
        )
    for file in checkpoint.missing:
        place = checkpoint.folder / file.name
        download_file(file.address, place, file.sha256, remedy=f"or put the file at {place} yourself", quiet=quiet)
    if checkpoint.files:
        return ""
    return hub.fetch(checkpoint.name, checkpoint.revision, checkpoint.patterns, checkpoint.kind, quiet=quiet).name


def _as_dicts(preset: Preset, checkpoints: list[Checkpoint]) -> list[dict[str, Any]]:
    return [
        {
            "checkpoint": checkpoint.name,
            "revision": checkpoint.revision,
            "gigabytes": checkpoint.gigabytes,
            "present": is_present(preset, checkpoint),
        }
        for checkpoint in checkpoints
    ]


def _line(preset: Preset, checkpoint: Checkpoint) -> str:
    from realign_cli.console import plain

    state = "here" if is_present(preset, checkpoint) else "missing"
    revision = checkpoint.revision[:12] or "SHA-256"
    place = f"{state:8}{checkpoint.gigabytes:5.1f} GB  {checkpoint.name} ({revision})"
    return plain(f"{place} for {', '.join(preset.users(checkpoint))}; licence: {checkpoint.licence}").plain + "\n"
