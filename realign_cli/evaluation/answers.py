"""What models said of images in earlier runs: one SQLite file that several processes may share."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from realign_cli import __version__
from realign_cli.errors import RealignError
from realign_cli.files import atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FILE = "eval.sqlite"
_PATIENCE = 60  # seconds that a write waits for another process
P = ParamSpec("P")
T = TypeVar("T")


def cache_folder() -> Path:
    """Where this program keeps what it can make or fetch again.

    Raises:
        RealignError: the user has no home, and XDG_CACHE_HOME does not name a folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "realign"
    except RuntimeError:  # a container's user may have no home
        raise RealignError("no home folder to remember answers in; set XDG_CACHE_HOME to one") from None


class Cache:
    """Bytes by key. Every `put` is one transaction: a killed process leaves all of it or nothing.

    Keys are of this version of the program, so that a changed computation never meets old answers.

    Raises:
        RealignError: the file cannot be used (read-only, full disk, not SQLite).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / _FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RealignError(
                f"cannot make the folder {folder} ({error.strerror}); set XDG_CACHE_HOME to one that can be written"
            ) from None
        self._database = self._guarded(sqlite3.connect, self._path, timeout=_PATIENCE, isolation_level=None)
        self._guarded(
            self._database.execute, "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value BLOB NOT NULL)"
        )

    def get(self, key: str) -> bytes | None:
        row = self._guarded(
            self._database.execute, "SELECT value FROM answers WHERE key = ?", (self._of_version(key),)
        ).fetchone()
        return row[0] if row else None

    def put(self, answers: Mapping[str, bytes]) -> None:
        rows = [(self._of_version(key), value) for key, value in answers.items()]
        self._guarded(self._database.execute, "BEGIN IMMEDIATE")
        self._guarded(self._database.executemany, "INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
        self._guarded(self._database.execute, "COMMIT")

    def close(self) -> None:
        self._database.close()

    def _of_version(self, key: str) -> str:
        return f"{__version__}:{key}"

    def _guarded(self, call: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> T:
        try:
            return call(*arguments, **options)
        except sqlite3.Error as error:
            raise RealignError(
                f"{self._path}: {error}; delete this file or give --cache another folder, or free some space"
            ) from None


class RowFile:
    """Rows of float32 numbers in an unnamed file, so that the memory does not grow with their number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # it is open as long as this object lives
        self._width = 0
        self._count = 0

    def put(self, index: int, row: bytes) -> None:
        """Write row `index`; rows may come in any order and must have one length."""
        self._width = len(row)
        self._count = max(self._count, index + 1)
        with atomic.told(self._folder, len(row)):
            self._file.seek(index * len(row))
            self._file.write(row)

    def matrix(self) -> NDArray[np.float32]:
        """All rows, (n, D), as a memory map."""
        import numpy as np

        with atomic.told(self._folder, self._count * self._width):
            self._file.flush()
        shape = (self._count, self._width // 4)
        return np.memmap(self._file, np.float32, "r", shape=shape) if self._count else np.empty((0, 0), np.float32)
