"""A folder that a run fills: its records, its images, and `run.json`, which says how they were made.

Finished records go line by line into a journal; when the run is complete they become `metadata.jsonl` in one rename. A
run that was killed continues from the journal. Workers that share a folder have a journal for each shard; a complete
shard waits as a hidden file, and the worker that completes the last one joins them all into `metadata.jsonl`.

An image is on the disk before the journal names its record, so that no power cut leaves a record without its image.
Before an image is begun, its id is noted in a hidden file: what a kill left of records that no journal names can be
found there, and nothing else is ever deleted.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from realign_cli import __version__
from realign_cli.data.maps import MAPS, maps_path
from realign_cli.data.records import METADATA, done_path, journal_path, parts, shard_of
from realign_cli.data.shards import WHOLE, Shard
from realign_cli.errors import RealignError, UsageError
from realign_cli.files import atomic
from realign_cli.records import SCHEMA, Record, parse_line, require_schema
from realign_cli.runs.journal import Journal, Records, finished_lines, read_lines, write_lines
from realign_cli.runs.lock import flocked, folder_lock, holders
from realign_cli.runs.times import TIMES

RUN = "run.json"
_LIBRARIES = (
    *("torch", "diffusers", "transformers", "accelerate", "peft"),
    *("open_clip_torch", "segment-anything", "openai", "numpy", "pillow", "salesforce-lavis"),
)
_PICTURES = "pictures"
_OUR_MODULE = re.compile(r"realign_cli(\.\w+)+:")  # before the class of an adapter, in folders of earlier versions
_KIND = r"[a-z]+(-\d+)?"  # of pictures, such as mask-0
_BEGUN = ".begun"  # ids of records whose files are being written


def image_name(record_id: str) -> str:
    """The file name of a record's image."""
    return f"{record_id}.png"


def picture_path(folder: Path, record_id: str, kind: str) -> Path:
    """Where a picture for people lies: in a folder of its own, so that no id can take its name for an image."""
    return folder / _PICTURES / f"{record_id}-{kind}.png"


def contact_sheet_path(folder: Path) -> Path:
    """Where the one picture of all strips lies; it has no hyphen, so that it is no record's picture either."""
    return folder / _PICTURES / "contact_sheet.png"


class RunFolder:
    """The output of one run, or of one shard of it, in a folder whose lock the caller holds: `open` takes it.

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
        open_run(path, config, sizes=sizes, overwrite=overwrite)
        self._journal = Journal(journal_path(path, shard), finished_lines(path))
        self.kept = Records(self._journal)
        self._begun = path / f"{_BEGUN}{shard.suffix}"
        self._remove_what_was_begun()

    @classmethod
    @contextmanager
    def open(
        cls, path: Path, config: Mapping[str, Any], *, shard: Shard = WHOLE, **options: Any
    ) -> Iterator[RunFolder]:
        """A folder that no other process works on, or has this shard of, until the block ends; as `RunFolder`.

        Raises:
            UsageError: another process is at work here; or as `claim`.
            RealignError: as `claim`.
        """
        with folder_lock(path, shard):
            folder = cls(path, config, shard=shard, **options)
            try:
                yield folder
            finally:
                folder.close()

    def begin(self, records: Iterable[Record]) -> None:
        """Note the records whose images, pictures and maps are written next, until `flush`."""
        data = "".join(" ".join(filter(None, (record.id, record.prompt_id))) + "\n" for record in records)
        with atomic.report_os_errors(self._begun, len(data)), self._begun.open("a") as file:
            file.write(data)

    def add(self, record: Record) -> None:
        """Keep a finished record; its files must have been written before."""
        self._journal.add(record)

    def flush(self) -> None:
        """As `Journal.flush`; the names of files that were written before survive as well."""
        if self._journal.pending:
            for folder in (self.path, self.path / _PICTURES, self.path / MAPS):
                with suppress(FileNotFoundError):  # no pictures, or no maps
                    atomic.sync(folder)
        self._journal.flush()
        with suppress(FileNotFoundError):  # nothing was begun
            os.truncate(self._begun, 0)

    def has_image(self, record: Record) -> bool:
        """Whether the image that a finished record names is here."""
        return (self.path / record.file_name).is_file()

    def complete(self, ids: Sequence[str], *, final: bool = True, left_out: Set[str] = frozenset()) -> bool:
        """Finish this shard of the input, which has these `ids`; with the last shard, write `metadata.jsonl`.

        Records are there in the order of the input. A worker that was given its own shard only, as on a pipe, cannot
        know that order; then they are in the order of their ids. Where the `ids` are `final`, finished records with
        other ids go; else they stay, behind these, but for those that were `left_out`. Returns whether these records
        are in `metadata.jsonl` now.
        """
        self.flush()
        if self._shard != WHOLE:
            others = () if final else (i for i in self._journal if i not in left_out)
            own = [i for i in _and_others(ids, others) if self._owns(i)]
            write_lines(done_path(self.path, self._shard), self._journal, own)
        with flocked(self.path / RUN):
            self._join(ids, final, left_out)
            complete = (self.path / METADATA).exists() and not done_path(self.path, self._shard).exists()
            if complete and not holders(self.path).keys() - {self._shard}:
                atomic.remove_leftovers(self.path)
        self._journal.remove()
        self._begun.unlink(missing_ok=True)
        return complete

    def close(self) -> None:
        """Give the folder to whoever goes on."""
        self._journal.close()

    def _owns(self, record_id: str) -> bool:
        """Whether this shard owns a record, which it then has finished."""
        record = self.kept.get(record_id)
        return record is not None and self._shard.owns(record.prompt_key)

    def _remove_what_was_begun(self) -> None:
        """Delete what a kill left half done of the records that this worker has."""
        for record_id in [i for i, prompt_id in _begun(self.path).items() if self._shard.owns(prompt_id)]:
            _remove_files(self.path, record_id, atomic.temporary)
            if record_id not in self.kept:
                _remove_files(self.path, record_id)
        if self._shard == WHOLE:  # else what is left over may be in another worker's hands
            atomic.remove_leftovers(self.path)
        for file in _begun_files(self.path) if self._shard == WHOLE else [self._begun]:
            file.unlink(missing_ok=True)

    def _join(self, ids: Sequence[str], final: bool, left_out: Set[str]) -> None:
        """Write `metadata.jsonl` unless another worker did it, or will."""
        count = self._shard.count
        shards = [done_path(self.path, shard) for shard in Shard.all(count)] if count > 1 else []
        done = [path for path in shards if path.exists()]
        if shards and done_path(self.path, self._shard) not in done:
            return
        if len(done) < len(shards) and not (self.path / METADATA).exists():  # where it exists, done shards went into it
            return
        lines = read_lines([self.path / METADATA, *done]) if shards else self._journal
        knows_all = not shards or not all(map(self._owns, ids)) or len(ids) >= len(lines)
        others = () if final else lines
        order = [i for i in _and_others(ids if knows_all else sorted(lines), others) if i not in left_out]
        if any(i not in lines for i in order):  # the input has grown, and another shard is not through with it
            return
        write_lines(self.path / METADATA, lines, order)
        if self._finish and order:
            self._finish(self.path)
        for path in parts(self.path):  # but not the journals of workers that go through their shard again
            if path in done or (part := shard_of(path)) is None or part.count != count:
                path.unlink()
        for path in _begun_files(self.path):
            if (part := _begun_of(path)) is None or part.count != count:
                path.unlink()


def open_run(
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
    if not atomic.create_exclusive(path / RUN, json.dumps(run, indent=2, ensure_ascii=False, allow_nan=False) + "\n"):
        _check_same(path, config)  # another worker may have come first


def clear(path: Path) -> None:
    """Delete the files of an earlier run and no other, and only in a folder that a run made.

    Raises:
        UsageError: no run made it.
    """
    if not path.exists():
        return
    records = [file for file in (*parts(path), path / METADATA) if file.exists()]
    if records and not (path / RUN).exists():  # where there are none, a kill may have come between the old and the new
        raise UsageError(f"{path}: --overwrite only clears folders that realign made (no {RUN} here); choose another")
    for record_id in _ids(records) | _begun(path).keys():
        _remove_files(path, record_id)
    atomic.remove_leftovers(path)
    for file in (
        contact_sheet_path(path),
        *_begun_files(path),
        *records,
        path / TIMES,
        path / RUN,
    ):  # the last says whose folder it is
        file.unlink(missing_ok=True)
    for folder in (path / _PICTURES, path / MAPS):
        with suppress(OSError):  # not there, or somebody else's files are in it
            folder.rmdir()


def _ids(files: Iterable[Path]) -> set[str]:
    """The ids of all records that can still be read in these files."""
    ids = set()
    for file in files:
        for line in file.read_text(errors="replace").split("\n"):
            with suppress(UsageError):
                ids.add(parse_line(line, str(file)).id)
    return ids


def _begun(path: Path) -> dict[str, str]:
    """The ids of records whose files were being written, with those of their prompts; a line that a kill tore comes
    before any of them.
    """
    lines = (line.split() for file in _begun_files(path) for line in file.read_text().split("\n")[:-1])
    return {words[0]: words[-1] for words in lines if words}


def _begun_files(path: Path) -> list[Path]:
    return sorted(path.glob(f"{_BEGUN}*"))


def _begun_of(file: Path) -> Shard | None:
    return Shard.of_name(file.name.removeprefix(_BEGUN))


def _remove_files(path: Path, record_id: str, named: Callable[[Path], Path] = Path) -> None:
    """Delete image, pictures and maps of a record, or what was to become them where `named` gives its name."""
    for file in (path / image_name(record_id), maps_path(path, record_id)):
        named(file).unlink(missing_ok=True)
    pictures = named(picture_path(path, record_id, "*"))
    kinds = re.compile(re.escape(pictures.name).replace(re.escape("*"), _KIND))
    for picture in pictures.parent.glob(pictures.name):
        if kinds.fullmatch(picture.name):  # and not of an id that begins with this one
            picture.unlink()


def _and_others(ids: Iterable[str], others: Iterable[str]) -> list[str]:
    """The ids, and behind them those of the others that are not among them."""
    return list(dict.fromkeys([*ids, *others]))


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
