"""Where files are kept that can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path

from realign_cli.errors import RealignError


def cache_folder() -> Path:
    """Where this program keeps what it can make or fetch again.

    Raises:
        RealignError: the user has no home, and XDG_CACHE_HOME does not name a folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "realign"
    except RuntimeError:  # a container's user may have no home
        raise RealignError("no home folder to remember answers in; set XDG_CACHE_HOME to one") from None
