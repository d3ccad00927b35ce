"""A folder that a run fills: its records, its images, and `run.json`, which says how they were made.

Finished records go line by line into a journal; when the run is complete the journal becomes `metadata.jsonl` in one
rename. A run that was killed continues from the journal.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from realign_cli import __version__
from realign_cli.errors import RealignError, UsageError
from realign_cli.plumbing import atomic
from realign_cli.plumbing.source import METADATA, journal_path
from realign_cli.records import Record, dump_line, parse_line

RUN = "run.json"
_LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch", "segment-anything", "openai", "numpy", "pillow")


class RunFolder:
    """The output of one run. `config` is everything that decides the result; a run only continues with the same."""

    def __init__(self, path: Path, config: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = path
        if overwrite:
            _clear(path)
        _check_same(path, config)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RealignError(f"cannot make the folder {path}: {error.strerror}") from None
        atomic.remove_leftovers(path)
        self.kept = self._read_kept()
        if not (path / RUN).exists():
            atomic.write_json(path / RUN, {"argv": sys.argv[1:], "config": config, "versions": _versions()})
        self._journal = journal_path(path).open("ab")

    def add(self, record: Record) -> None:
        """Keep a finished record; its files must have been written before."""
        self._journal.write((dump_line(record) + "\n").encode())
        self.kept[record.id] = record

    def flush(self) -> None:
        """Make everything added so far survive a crash."""
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def complete(self, ids: list[str]) -> None:
        """Write `metadata.jsonl` with the records of this run's input, in the order of the input."""
        self.flush()
        self._journal.close()
        atomic.write_text(self.path / METADATA, "".join(dump_line(self.kept[i]) + "\n" for i in ids))
        journal_path(self.path).unlink()

    def _read_kept(self) -> dict[str, Record]:
        kept: dict[str, Record] = {}
        complete = self.path / METADATA
        if complete.exists():
            kept |= _parse(complete.read_bytes(), complete)
        journal = journal_path(self.path)
        if journal.exists():
            data = journal.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]  # a kill may have torn the last line
            if whole != data:
                os.truncate(journal, len(whole))
            kept |= _parse(whole, journal)
        return kept


def _parse(data: bytes, path: Path) -> dict[str, Record]:
    lines = data.decode().split("\n")  # not splitlines: JSON strings may hold other line separators
    records = (parse_line(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line)
    return {record.id: record for record in records}


def _clear(path: Path) -> None:
    """Delete what an earlier run left, and only in a folder that a run made."""
    if not path.exists():
        return
    if any(path.iterdir()) and not (path / RUN).exists():
        raise UsageError(f"{path}: --overwrite only clears folders that realign made (no {RUN} here); choose another")
    shutil.rmtree(path)


def _check_same(path: Path, config: Mapping[str, Any]) -> None:
    run = path / RUN
    if not run.exists():
        if path.is_dir() and (path / METADATA).exists():
            raise UsageError(f"{path}: holds records of another origin (no {RUN}); choose another --out")
        return
    try:
        before = json.loads(run.read_text())["config"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{run}: not readable; --overwrite starts over") from None
    old, new = _flatten(before), _flatten(json.loads(json.dumps(config)))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if differing:
        named = ", ".join(f"{key} ({old.get(key)!r} before, {new.get(key)!r} now)" for key in differing[:4])
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise UsageError(f"{path}: made with another configuration: {named}{more}; --overwrite starts over")


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat |= _flatten(part, f"{prefix}.{key}" if prefix else key)
    return flat


def _versions() -> dict[str, str]:
    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "absent"

    python = ".".join(map(str, sys.version_info[:3]))
    return {"realign": __version__, "python": python} | {name: version(name) for name in _LIBRARIES}
