"""What models said of images in earlier runs: one SQLite file that several processes may share."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

from realign_cli import __version__
from realign_cli.errors import RealignError

_FILE = "eval.sqlite"
_PATIENCE = 60  # seconds that a write waits for another process
P = ParamSpec("P")
T = TypeVar("T")


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
        self._database = self._reporting_errors(sqlite3.connect, self._path, timeout=_PATIENCE, isolation_level=None)
        self._reporting_errors(
            self._database.execute, "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value BLOB NOT NULL)"
        )

    def get(self, key: str) -> bytes | None:
        row = self._reporting_errors(
            self._database.execute, "SELECT value FROM answers WHERE key = ?", (self._of_version(key),)
        ).fetchone()
        return row[0] if row else None

    def put(self, answers: Mapping[str, bytes]) -> None:
        rows = [(self._of_version(key), value) for key, value in answers.items()]
        self._reporting_errors(self._database.execute, "BEGIN IMMEDIATE")
        self._reporting_errors(self._database.executemany, "INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
        self._reporting_errors(self._database.execute, "COMMIT")

    def close(self) -> None:
        self._database.close()

    def _of_version(self, key: str) -> str:
        return f"{__version__}:{key}"

    def _reporting_errors(self, call: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> T:
        try:
            return call(*arguments, **options)
        except sqlite3.Error as error:
            raise RealignError(
                f"{self._path}: {error}; delete this file or give --cache another folder, or free some space"
            ) from None
