"""What `fid` compares with: the statistics or images that --reference or section [fid] of the preset names."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from realign_cli import registry
from realign_cli.data import coco
from realign_cli.errors import RealignError, UsageError
from realign_cli.evaluation.evaluate import FID
from realign_cli.evaluation.session import Against
from realign_cli.files.cache_folder import cache_folder

if TYPE_CHECKING:
    from realign_cli.presets import Checkpoint, Preset
    from realign_cli.registry import Models

_PACKAGED = "stats.npz"  # in the folder of a packaged reference


def named_reference(preset: Preset, preset_argument: str) -> Against:
    """The reference that the preset names: packaged, made by `realign download`, or a path. `naming` is as of `Named`.

    Raises:
        UsageError: the preset names none.
        RealignError: it has not been made yet; with what making it takes.
    """
    name = preset.section(FID).get("reference", "")
    if not name:
        raise UsageError("--metrics fid compares with real images: give --reference DIR")
    if name.startswith(registry.PACKAGE):
        return Against(name, registry.packaged(name.removeprefix(registry.PACKAGE)) / _PACKAGED)
    images = preset.checkpoint(name)
    if images is None:
        return Against(name, Path(name))
    path = statistics_of(preset, images)
    if not path.is_file():
        raise RealignError(
            f"fid compares with {coco.TITLE}, whose statistics are not here: 'realign download{preset_argument}' "
            f"fetches its images ({images.gigabytes} GB) and makes them, with '--in DIR' of an unpacked val2014 that "
            "you have. Or give --reference DIR, or leave fid out of --metrics"
        )
    return Against(f"{coco.TITLE} ({path.name})", path)


def statistics_of(preset: Preset, images: Checkpoint) -> Path:
    """Where the statistics of a published set of images lie once they are made, with the features of the preset."""
    described = registry.Models(preset).describe([FID])["settings"]
    identity = json.dumps([described, images.name, images.revision], sort_keys=True)
    name = images.name.replace("/", "--")
    return cache_folder() / "references" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npz"


def make_statistics(models: Models, images: Checkpoint, given: Path | None, *, quiet: bool) -> Path:
    """Make the statistics of the 5,000 images of `realign prompts coco`, of a folder that is `given` or of the hub's.

    What was fetched, unpacked or looked at before an interruption is not fetched, unpacked or looked at again.

    Raises:
        RealignError: the images cannot be had, or one of them cannot be read.
        UsageError: these are not the images of COCO 2014 val.
    """
    from realign_cli.data.prompt_sets import coco_images
    from realign_cli.data.records import Entry
    from realign_cli.evaluation import fid_stats
    from realign_cli.evaluation.distance import reference
    from realign_cli.evaluation.session import session
    from realign_cli.files import hub
    from realign_cli.records import Record

    path = statistics_of(models.preset, images)
    unpacked = path.with_suffix("")
    if given:
        files = coco.in_folder(given)
        ids = coco_images(files)
    else:
        folder = hub.snapshot(images.name, images.revision, images.patterns, images.kind)
        assert folder, "fetched before"
        parts = sorted(folder.rglob("*.parquet"))
        ids = coco_images(coco.in_parquet(parts))
        files = coco.unpack(parts, set(ids), unpacked, quiet=quiet)
    entries = [Entry(Record(file_name=files[i].name, text="", id=f"{i}"), str(files[i]), files[i].parent) for i in ids]
    with session(models, None, None, len(entries), quiet=quiet) as opened:
        run = opened.measure(str(given or unpacked), opened.evaluate([FID]), entries)
        if run.failures:
            raise RealignError(
                f"{len(run.failures)} of the {len(entries):,} images cannot be read, the first: {run.warnings()[0]}"
            )
        moments = reference(run.features).moments
        fid_stats.write_stats(path, moments.mean, moments.covariance, len(entries), models.features.name)
    shutil.rmtree(unpacked, ignore_errors=True)
    return path
