"""Checkpoints of the model hub in its own cache (HF_HOME), fetched at one revision and checked against its sums.

The hub's own library fetches: it takes up a broken connection where it broke, and passes over the files that are there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]

from realign_cli.errors import RealignError
from realign_cli.plumbing import atomic
from realign_cli.plumbing.download import without_secrets

_REMEDY = "the same command goes on from here; HF_ENDPOINT names another hub, HF_TOKEN is for models that want a login"


def present(name: str, revision: str, patterns: Sequence[str]) -> bool:
    """Whether all files of `name` that match `patterns` are in the cache, and were checked when they came."""
    try:
        snapshot = snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=True)
    except OSError:
        return False
    return _mark(Path(snapshot)).is_file()


def fetch(name: str, revision: str, patterns: Sequence[str], *, quiet: bool) -> str:
    """Fetch the files of `name` that match `patterns` and compare them with the hub's sums; the commit of `revision`.

    Raises:
        RealignError: the hub or the revision cannot be had, or a file is not what the hub says it has, and is deleted.
    """
    logging.disable_propagation()  # its warnings have a handler of their own
    if quiet:
        disable_progress_bars()
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        snapshot = Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
        found = HfApi().verify_repo_checksums(name, revision=snapshot.name)
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise RealignError(f"cannot fetch {name} at {revision}: {without_secrets(reason)}; {_REMEDY}") from None
    damaged = [one["path"] for one in found.mismatches]
    for path in damaged:
        (snapshot / path).resolve().unlink()
        (snapshot / path).unlink(missing_ok=True)
    if damaged:
        raise RealignError(f"{name}: {', '.join(damaged)} is not what the hub has (checksum) and is deleted; {_REMEDY}")
    atomic.write_text(_mark(snapshot), f"{found.checked_count} files\n")
    return snapshot.name


def address() -> str:
    """Of the hub."""
    return constants.ENDPOINT


def offline() -> bool:
    """Whether the user forbids asking the hub."""
    return bool(constants.HF_HUB_OFFLINE)


def home() -> Path:
    """The folder of everything that is fetched; it need not exist yet."""
    return Path(os.path.expanduser(constants.HF_HOME))


def _mark(snapshot: Path) -> Path:
    """Exists once a snapshot was compared with the hub's sums."""
    return home() / "realign" / "checked" / f"{snapshot.parents[1].name}--{snapshot.name}"
