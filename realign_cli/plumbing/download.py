"""Files that are fetched when they are first wanted, and kept."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from realign_cli.errors import RealignError
from realign_cli.plumbing import atomic

_TIMEOUT = 60  # seconds without a byte


def fetched(url: str, folder: Path, sha256: str | None = None) -> Path:
    """The file at `url`, from `folder` if an earlier call put it there.

    Raises:
        RealignError: it cannot be fetched or written, or is not the file of that SHA-256.
    """
    path = folder / url.rsplit("/", 1)[-1]
    if path.exists():
        return path
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, atomic.written(path) as file:
            shutil.copyfileobj(response, file)
            file.flush()
            if response.length:  # bytes that were promised and did not come
                raise ConnectionError(f"it broke off {response.length} bytes before the end")
            if sha256 and _digest(Path(file.name)) != sha256:
                raise RealignError(
                    f"{url}: not the file that was published (SHA-256); give a copy of it with --from FILE"
                )
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise RealignError(f"cannot fetch {url} ({reason}): fetch it elsewhere and give --from FILE") from None
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
