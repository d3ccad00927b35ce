"""Checkpoints of a training run: each a folder that is either complete or not there.

    checkpoints/000100/    a model that --model reads, and
        state.safetensors  weights in training, their average, the optimiser's moments
        manifest.json      the step, what it belongs to, and the SHA-256 sum of every file; written last

A checkpoint is written into a staging folder, which one rename makes visible.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from realign_cli.errors import RealignError, UsageError
from realign_cli.files import atomic
from realign_cli.files.disk import free_bytes

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

FOLDER, MANIFEST, STATE = "checkpoints", "manifest.json", "state.safetensors"
_LONGEST = 200  # bytes of the name of a file
KEPT = 2  # the last one, and one to fall back to


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: where it is, and its manifest."""

    path: Path
    step: int
    facts: Mapping[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(self.path / STATE)


def save(
    run: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], export: Callable[[Path], None]
) -> Path:
    """Write checkpoint `step` of a run and remove all but the last `KEPT`.

    `export` writes the model into the folder that it is given. `facts` must be JSON.

    Raises:
        RealignError: it cannot be written; earlier checkpoints stay as they are.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = run / FOLDER / f"{step:06d}"
    staging = atomic.temporary(final)
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        export(staging)
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, staging / STATE)
        files = {path.relative_to(staging).as_posix(): _digest(path) for path in _files(staging)}
        usual = staging.stat().st_mode & 0o666  # safetensors makes files that only their owner may read
        for name in files:
            (staging / name).chmod(usual)
            atomic.sync(staging / name)
        atomic.write_json(staging / MANIFEST, {"step": step, **facts, "files": files})
        shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
        os.replace(staging, final)
    except (OSError, SafetensorError) as error:  # the latter wraps what a full disk says
        shutil.rmtree(staging, ignore_errors=True)
        size = sum(tensor.nbytes for tensor in tensors.values())
        reason = getattr(error, "strerror", None) or error
        raise RealignError(
            f"cannot write checkpoint {final} ({size} bytes and the model): {reason}; free some space"
        ) from None
    for old in sorted(_folders(run))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest(run: Path) -> Checkpoint | None:
    """The newest complete checkpoint of a run; damaged ones are passed over with a warning."""
    for path in sorted(_folders(run), reverse=True):
        try:
            return read(path)
        except UsageError as error:
            log.warning("%s; falling back to the checkpoint before it", error)
    return None


def read(path: Path) -> Checkpoint:
    """A checkpoint whose every file is as its manifest says.

    Raises:
        UsageError: it is not complete, or a file is missing or damaged.
    """
    facts, files = _manifest(path)
    for name, expected in files.items():
        if not (path / name).is_file() or _digest(path / name) != expected:
            raise UsageError(f"{path}: {name} is missing or damaged")
    return Checkpoint(path, facts["step"], facts)


def _manifest(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What the manifest of a checkpoint says, and its files with their sums; all of them lie in `folder`.

    Raises:
        UsageError: there is none, or it says anything else.
    """
    unusable = UsageError(f"{folder}: not a complete checkpoint (no readable {MANIFEST})")
    try:
        facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        step, files = facts["step"], facts["files"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        raise unusable from None
    if type(step) is not int or not isinstance(files, dict):
        raise unusable
    for name, digest in files.items():
        if not isinstance(digest, str) or not _inside(folder, name):
            raise UsageError(
                f"{folder}: its {MANIFEST} is not as realign writes it ({name!r} is no file of this folder)"
            )
    return facts, files


def _inside(folder: Path, name: str) -> bool:
    """Whether `name` leads to a place below `folder`, by no link and no detour."""
    path = PurePosixPath(name)
    if (
        not name.isprintable()
        or len(name.encode()) > _LONGEST
        or path.is_absolute()
        or ".." in path.parts
        or name in ("", ".")
    ):
        return False
    return (folder / path).parent.resolve().is_relative_to(folder.resolve())


def publish(checkpoint: Path, run: Path) -> None:
    """Make the model of a checkpoint the result of its run, so that --model takes the run's folder itself."""
    for path in _files(checkpoint):
        name = path.relative_to(checkpoint)
        if name.as_posix() not in (STATE, MANIFEST):
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            atomic.link_or_copy(path, run / name)
    atomic.link_or_copy(checkpoint / MANIFEST, run / MANIFEST)


def clear(run: Path) -> None:
    """Delete the checkpoints of a run and the model that it published; nothing outside its folder.

    Raises:
        UsageError: the manifest of the model is not one that this program wrote; nothing is deleted then.
    """
    published = _manifest(run)[1] if (run / MANIFEST).exists() else {}
    for folder in list(_folders(run)):
        shutil.rmtree(folder)
    for name in published:
        (run / name).unlink(missing_ok=True)
    (run / MANIFEST).unlink(missing_ok=True)


def require_space(run: Path, needed: int) -> None:
    """Refuse to begin what could not be saved.

    Raises:
        RealignError: less than `needed` bytes are free where `run` will be.
    """
    free = free_bytes(run)
    if free < needed:
        raise RealignError(
            f"{run}: checkpoints take up to {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; "
            "free some space, choose another --out, or train a smaller --rank"
        )


def _folders(run: Path) -> Iterator[Path]:
    return (path for path in (run / FOLDER).glob("[0-9]*") if path.is_dir())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
