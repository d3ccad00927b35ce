"""A folder that a run fills: its records, its images, and `run.json`, which says how they were made.

Finished records go line by line into a journal; when the run is complete the journal becomes `metadata.jsonl` in one
rename. A run that was killed continues from the journal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from realign_cli import __version__
from realign_cli.errors import RealignError, UsageError
from realign_cli.plumbing import atomic
from realign_cli.plumbing.source import METADATA, journal_path
from realign_cli.records import Record, dump_line, parse_line

RUN = "run.json"
_LIBRARIES = (
    *("torch", "diffusers", "transformers", "accelerate", "peft"),
    *("open_clip_torch", "segment-anything", "openai", "numpy", "pillow", "salesforce-lavis"),
)
_PICTURES = "pictures"


def image_name(record_id: str) -> str:
    """The file name of a record's image."""
    return f"{record_id}.png"


def picture_path(folder: Path, record_id: str, kind: str) -> Path:
    """Where a picture for people lies: in a folder of its own, so that no id can take its name for an image."""
    return folder / _PICTURES / f"{record_id}-{kind}.png"


def sheet_path(folder: Path) -> Path:
    """Where the one picture of all strips lies; it has no hyphen, so that it is no record's picture either."""
    return folder / _PICTURES / "contact_sheet.png"


class RunFolder:
    """The output of one run. `config` is everything that decides the result; a run only continues with the same."""

    def __init__(self, path: Path, config: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = path
        claim(path, config, overwrite=overwrite)
        self.kept = self._read_kept()
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


def claim(path: Path, config: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Make `path` the folder of a run with this `config`, new or to be continued, and say so in its `run.json`.

    Raises:
        UsageError: it holds a run of another configuration, or something else.
        RealignError: it cannot be made or written.
    """
    if overwrite:
        _clear(path)
    _check_same(path, config)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RealignError(f"cannot make the folder {path}: {error.strerror}") from None
    atomic.remove_leftovers(path)
    if not (path / RUN).exists():
        atomic.write_json(path / RUN, {"argv": sys.argv[1:], "config": config, "versions": _versions()})


def _parse(data: bytes, path: Path) -> dict[str, Record]:
    lines = data.decode().split("\n")  # not splitlines: JSON strings may hold other line separators
    records = (parse_line(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line)
    return {record.id: record for record in records}


def _clear(path: Path) -> None:
    """Delete the files of an earlier run and no other, and only in a folder that a run made."""
    if not path.exists():
        return
    if any(path.iterdir()) and not (path / RUN).exists():
        raise UsageError(f"{path}: --overwrite only clears folders that realign made (no {RUN} here); choose another")
    for record_id in _ids(path):
        (path / image_name(record_id)).unlink(missing_ok=True)
        for picture in path.glob(str(picture_path(Path(), record_id, "*"))):
            picture.unlink()
    atomic.remove_leftovers(path)
    for file in (sheet_path(path), path / METADATA, journal_path(path), path / RUN):  # the last says whose folder it is
        file.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or somebody else's files are in it
        (path / _PICTURES).rmdir()


def _ids(path: Path) -> set[str]:
    """The ids of all records that can still be read here."""
    ids = set()
    for file in (path / METADATA, journal_path(path)):
        for line in file.read_text(errors="replace").split("\n") if file.exists() else []:
            with suppress(UsageError):
                ids.add(parse_line(line, str(file)).id)
    return ids


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
    require_same(path, before, json.loads(json.dumps(config)))


def require_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue what lies in `path` with other settings.

    Raises:
        UsageError: with the keys that differ.
    """
    old, new = _flatten(before), _flatten(now)
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
