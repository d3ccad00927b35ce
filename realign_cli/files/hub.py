"""Checkpoints of the model hub in its own cache (HF_HOME), fetched at one revision and checked against its sums.

The hub's own library fetches: it takes up a broken connection where it broke, and passes over the files that are there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]

from realign_cli.errors import RealignError, first_line
from realign_cli.files import atomic
from realign_cli.files.download import without_secrets

Kind = Literal["model", "dataset"]
_REMEDY = "the same command goes on from here; HF_ENDPOINT names another hub, HF_TOKEN is for models that want a login"


def snapshot(name: str, revision: str, patterns: Sequence[str], kind: Kind = "model") -> Path | None:
    """The folder in the cache with all files of `name` that match `patterns`, if they were checked when they came."""
    try:
        folder = snapshot_download(
            name, repo_type=kind, revision=revision, allow_patterns=list(patterns), local_files_only=True
        )
    except OSError:
        return None
    return Path(folder) if _mark(Path(folder)).is_file() else None


def fetch(name: str, revision: str, patterns: Sequence[str], kind: Kind = "model", *, quiet: bool) -> Path:
    """Fetch the files of `name` that match `patterns` and compare them with the hub's sums.

    Returns the folder that holds them, which is called as the commit of `revision`.

    Raises:
        RealignError: the hub or the revision cannot be had, or a file is not what the hub says it has, and is deleted.
    """
    logging.disable_propagation()  # its warnings have a handler of their own
    if quiet:
        disable_progress_bars()
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        folder = Path(snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=list(patterns)))
        found = HfApi().verify_repo_checksums(name, repo_type=kind, revision=folder.name)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise RealignError(
            f"cannot fetch {name} at {revision}: {without_secrets(first_line(error))}; {_REMEDY}"
        ) from None
    damaged = [one["path"] for one in found.mismatches]
    for path in damaged:
        (folder / path).resolve().unlink()
        (folder / path).unlink(missing_ok=True)
    if damaged:
        raise RealignError(f"{name}: {', '.join(damaged)} is not what the hub has (checksum) and is deleted; {_REMEDY}")
    atomic.write_text(_mark(folder), f"{found.checked_count} files\n")
    return folder


def address() -> str:
    """Of the hub."""
    return constants.ENDPOINT


def offline() -> bool:
    """Whether the user forbids asking the hub."""
    return bool(constants.HF_HUB_OFFLINE)


def home() -> Path:
    """The folder of everything that is fetched; it need not exist yet."""
    return Path(os.path.expanduser(constants.HF_HOME))


def _mark(folder: Path) -> Path:
    """Exists once a snapshot was compared with the hub's sums."""
    return home() / "realign" / "checked" / f"{folder.parents[1].name}--{folder.name}"
