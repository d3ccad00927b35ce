"""What language models replied, on disk: a question that was asked before costs nothing, and every reply can be read.

One JSON file per entry, named by the SHA-256 of what identifies it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from realign_cli.errors import RealignError
from realign_cli.files.cache_folder import cache_folder


class ReplyCache:
    """Entries in `folder`; an empty string is `replies` in this program's cache folder."""

    def __init__(self, folder: str = "") -> None:
        self._folder = Path(folder).expanduser() if folder else cache_folder() / "replies"

    def get(self, *identity: Any) -> Any:
        """The entry put under the same `identity` (JSON values), or None; a damaged file counts as none."""
        try:
            return json.loads(self._path(identity).read_bytes())
        except (OSError, ValueError):
            return None

    def put(self, *identity: Any, entry: Any) -> None:
        """Keep `entry`, a JSON value.

        Raises:
            RealignError: it cannot be written.
        """
        path = self._path(identity)
        # Shards share the folder, and two may write one entry at once: each has a temporary folder of its own, where
        # the one temporary file of `files.atomic` would be both's.
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as own:
                written = Path(own) / path.name
                written.write_text(json.dumps(entry, indent=1), encoding="utf-8")
                os.replace(written, path)
        except OSError as error:
            raise RealignError(f"{path.parent}: cannot keep replies ({error.strerror}); set scorer.cache") from None

    def _path(self, identity: tuple[Any, ...]) -> Path:
        text = json.dumps(identity, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
