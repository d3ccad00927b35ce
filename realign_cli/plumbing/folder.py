"""A folder that a run fills: its records, its images, and `run.json`, which says how they were made.

Finished records go line by line into a journal; when the run is complete they become `metadata.jsonl` in one rename. A
run that was killed continues from the journal. Workers that share a folder have a journal for each shard; a complete
shard waits as a hidden file, and the worker that completes the last one joins them all into `metadata.jsonl`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from realign_cli import __version__
from realign_cli.errors import RealignError, UsageError
from realign_cli.plumbing import atomic
from realign_cli.plumbing.journal import Journal, Records, kept_lines, read_lines, write_lines
from realign_cli.plumbing.lock import exclusive, is_lock
from realign_cli.plumbing.source import METADATA, WHOLE, Shard, done_path, journal_path, parts, shard_of
from realign_cli.records import SCHEMA, Record, parse_line, require_schema

RUN = "run.json"
_LIBRARIES = (
    *("torch", "diffusers", "transformers", "accelerate", "peft"),
    *("open_clip_torch", "segment-anything", "openai", "numpy", "pillow", "salesforce-lavis"),
)
_PICTURES = "pictures"
_OUR_MODULE = re.compile(r"realign_cli(\.\w+)+:")  # before the class of an adapter, in folders of earlier versions


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
    """The output of one run, or of one shard of it, in a folder whose lock the caller holds.

    `config` is everything that decides the result; a run only continues with the same. `sizes` tells for `run.json` how
    many records each shard has, where that is known. `finish` is called with the path once `metadata.jsonl` holds
    records.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        *,
        shard: Shard = WHOLE,
        sizes: Sequence[int] | None = None,
        finish: Callable[[Path], object] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = path
        self._shard = shard
        self._finish = finish
        claim(path, config, sizes=sizes, overwrite=overwrite)
        if shard == WHOLE:  # else what looks left over may be in another worker's hands
            atomic.remove_leftovers(path)
        self._journal = Journal(journal_path(path, shard), kept_lines(path))
        self.kept = Records(self._journal)

    def add(self, record: Record) -> None:
        """Keep a finished record; its files must have been written before."""
        self._journal.add(record)

    def flush(self) -> None:
        """As `Journal.flush`."""
        self._journal.flush()

    def complete(self, ids: Sequence[str]) -> bool:
        """Finish this shard of the input, which has these `ids`; with the last shard, write `metadata.jsonl`.

        Records are there in the order of the input. A worker that was given its own shard only, as on a pipe, cannot
        know that order; then they are in the order of their ids. Returns whether these records are in it now.
        """
        self.flush()
        if self._shard != WHOLE:
            own = [i for i in ids if self._shard.owns(i)]
            write_lines(done_path(self.path, self._shard), self._journal, own)
        with exclusive(self.path / RUN):
            self._join(ids)
        self._journal.remove()
        return (self.path / METADATA).exists() and not done_path(self.path, self._shard).exists()

    def _join(self, ids: Sequence[str]) -> None:
        """Write `metadata.jsonl` unless another worker did it, or will."""
        count = self._shard.count
        shards = [done_path(self.path, Shard(i, count)) for i in range(1, count + 1)] if count > 1 else []
        done = [path for path in shards if path.exists()]
        if shards and done_path(self.path, self._shard) not in done:
            return
        if len(done) < len(shards) and not (self.path / METADATA).exists():  # where it exists, done shards went into it
            return
        lines = read_lines([self.path / METADATA, *done]) if shards else self._journal
        knows_all = not shards or not all(map(self._shard.owns, ids)) or len(ids) >= len(lines)
        order = ids if knows_all else sorted(lines)
        if any(i not in lines for i in order):  # the input has grown, and another shard is not through with it
            return
        write_lines(self.path / METADATA, lines, order)
        if self._finish and order:
            self._finish(self.path)
        for path in parts(self.path):  # but not the journals of workers that go through their shard again
            if path in done or (part := shard_of(path)) is None or part.count != count:
                path.unlink()


def claim(
    path: Path, config: Mapping[str, Any], *, sizes: Sequence[int] | None = None, overwrite: bool = False
) -> None:
    """Make `path` the folder of a run with this `config`, new or to be continued, and say so in its `run.json`.

    Raises:
        UsageError: it holds a run of another configuration, or something else.
        RealignError: it cannot be made or written.
    """
    if overwrite:
        clear(path)
    _check_same(path, config)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RealignError(f"cannot make the folder {path}: {error.strerror}") from None
    run = {
        "schema": SCHEMA,
        "argv": sys.argv[1:],
        "config": config,
        "versions": _versions(),
        "records": sizes,
    }
    if not atomic.create(path / RUN, json.dumps(run, indent=2, ensure_ascii=False, allow_nan=False) + "\n"):
        _check_same(path, config)  # another worker may have come first


def clear(path: Path) -> None:
    """Delete the files of an earlier run and no other, and only in a folder that a run made.

    Raises:
        UsageError: no run made it.
    """
    if not path.exists():
        return
    if not all(map(is_lock, path.iterdir())) and not (path / RUN).exists():
        raise UsageError(f"{path}: --overwrite only clears folders that realign made (no {RUN} here); choose another")
    for record_id in _ids(path):
        (path / image_name(record_id)).unlink(missing_ok=True)
        for picture in path.glob(str(picture_path(Path(), record_id, "*"))):
            picture.unlink()
    atomic.remove_leftovers(path)
    for file in (sheet_path(path), *parts(path), path / METADATA, path / RUN):  # the last says whose folder it is
        file.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or somebody else's files are in it
        (path / _PICTURES).rmdir()


def _ids(path: Path) -> set[str]:
    """The ids of all records that can still be read here."""
    ids = set()
    for file in (path / METADATA, *parts(path)):
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
        account = json.loads(run.read_text())
        before = account["config"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise UsageError(f"{run}: not readable; --overwrite starts over") from None
    require_schema(account, str(run))
    require_same(path, before, json.loads(json.dumps(config)))


def require_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue what lies in `path` with other settings.

    Where an adapter of this package was said with its module, as it once was, its class is what counts.

    Raises:
        UsageError: with the keys that differ.
    """
    old, new = _flatten(before), _flatten(now)
    old |= {key: _OUR_MODULE.sub("", str(value)) for key, value in old.items() if key.endswith(".adapter")}
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
