"""Where records come from: a folder, a file, a pipe, or the images of a plain folder."""

from __future__ import annotations

import json
import logging
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

from realign_cli.data.images import image_files
from realign_cli.data.pipe import record_lines
from realign_cli.data.shards import WHOLE, Shard
from realign_cli.errors import NoInput, UsageError
from realign_cli.records import ID, Record, as_record, parse_json, parse_line

log = logging.getLogger(__name__)
METADATA = "metadata.jsonl"
STDIN = "-"


@dataclass(frozen=True)
class Entry:
    """A record, where it was read (file:line), and the folder that its file name is relative to (None on a pipe)."""

    record: Record
    place: str
    base: Path | None = None


def read_records(source: str) -> Iterator[Entry]:
    """Stream the records of a folder, a JSONL file or stdin ("-").

    Raises:
        NoInput: at once, where stdin is a terminal.
        UsageError: nothing there, at once; or on the way a line that is not a record, or an id that occurs twice.
        RealignError: at the end of a pipe, where the command before this one ended early.
    """
    if source != STDIN:
        return _of_file(metadata_path(Path(source)))
    if sys.stdin.isatty():
        raise NoInput("no input: give --in FOLDER, or pipe records into this command")
    return _entries(record_lines(sys.stdin.buffer, "stdin"), "stdin", None)


def _of_file(path: Path) -> Iterator[Entry]:
    with path.open("rb") as file:
        yield from _entries(file, str(path), path.parent)


def read_tolerantly(folder: Path) -> Iterator[Entry | UsageError]:
    """The records of a folder as `read_records` reads them, but in the place of a line that is none, what is wrong.

    Raises:
        UsageError: there are no records to read.
    """
    path = metadata_path(folder)
    parse = _Identified(str(path))
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            place = f"{path}:{number}"
            try:
                if not (line := _text(raw, number, place)):
                    continue
                entry = Entry(parse(line, place), place, path.parent)
                if entry.record.id in seen:
                    raise UsageError(f"{place}: id {entry.record.id!r} was used before; ids must be unique")
            except UsageError as error:
                yield error
                continue
            seen.add(entry.record.id)
            yield entry


def metadata_path(path: Path) -> Path:
    """The JSONL file of a folder or of itself; a clear error where there is none."""
    file = path / METADATA if path.is_dir() else path
    if not path.exists():
        raise UsageError(f"{path}: no such folder or file")
    if not file.is_file():
        unfinished = f"its run was interrupted: run its command again; 'realign status {path}' tells what is left"
        hint = unfinished if parts(path) else "give a folder that realign wrote"
        raise UsageError(f"{path}: no {METADATA} in this folder; {hint}")
    return file


def journal_path(folder: Path, shard: Shard = WHOLE) -> Path:
    """Where a run keeps its finished records until it, or its shard, is complete."""
    return folder / f".{METADATA}.part{shard.suffix}"


def done_path(folder: Path, shard: Shard) -> Path:
    """Where the records of a complete shard wait for those of the others."""
    return folder / f".{METADATA}.done{shard.suffix}"


def parts(folder: Path) -> list[Path]:
    """The files with records that are not in `metadata.jsonl` yet; a journal comes after what it continues."""
    return sorted(folder.glob(f".{METADATA}.*"))


def shard_of(part: Path) -> Shard | None:
    """Whose file one of `parts` is."""
    return Shard.of_name(re.sub(r"^\.(done|part)", "", part.name.removeprefix(f".{METADATA}")))


def prompt_ids(source: str) -> list[str] | None:
    """The prompt's id of each record in `source`, in order, if that can be known before reading; without lines that
    cannot be read.
    """
    if source == STDIN:
        return None
    ids = []
    with metadata_path(Path(source)).open("rb") as file:
        for line in file:
            with suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError):
                data = json.loads(line)
                ids.append(str(data.get("prompt_id") or (data["id"] if "id" in data else _stem(data["file_name"]))))
    return ids


def count_records(source: str) -> int | None:
    """How many records `source` holds, if that can be known before reading them."""
    if source == STDIN:
        return None
    with metadata_path(Path(source)).open("rb") as file:
        return sum(1 for line in file if line.strip())


def read_images(folder: Path) -> Iterator[Entry]:
    """Records without prompts for the images of a plain folder; their ids are numbers."""
    for number, path in enumerate(image_files(folder)):
        yield Entry(Record(file_name=path.name, text="", id=f"{number:06d}"), str(path), folder)


def read_any(source: str) -> Iterator[Entry]:
    """Records as `read_records` reads them, or the images of a folder that holds images only."""
    return read_images(Path(source)) if _is_plain(source) else read_records(source)


def count_any(source: str) -> int | None:
    """How many `read_any` gives, if that can be known before reading."""
    return len(image_files(Path(source))) if _is_plain(source) else count_records(source)


def _is_plain(source: str) -> bool:
    path = Path(source)
    is_folder = source != STDIN and path.is_dir()
    return is_folder and not (path / METADATA).exists() and not parts(path) and bool(image_files(path))


def read_text(path: Path, member: str = "") -> str:
    """The text of a file, or of the file `member` in it if it is a .zip.

    Raises:
        UsageError: no such file or member, or no UTF-8 text.
    """
    try:
        data = zipfile.Path(path, member).read_bytes() if path.suffix == ".zip" else path.read_bytes()
        return data.decode("utf-8-sig")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: {reason}; name a text file, such as prompts.txt") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _entries(file: Iterable[bytes], name: str, base: Path | None) -> Iterator[Entry]:
    empty = True
    for entry in unique(Entry(record, place, base) for place, record in parse_lines(file, name, _Identified(name))):
        empty = False
        yield entry
    if empty:
        raise UsageError(f"{name}: no records")


class _Identified:
    """`parse_line` for what another program may have written: an imagefolder needs no ids."""

    def __init__(self, name: str) -> None:
        self._name, self._said = name, False

    def __call__(self, line: str, place: str) -> Record:
        data = parse_json(line, place)
        if not isinstance(data, dict) or "id" in data or not isinstance(data.get("file_name"), str):
            return as_record(data, place)
        stem = _stem(data["file_name"])
        if not re.fullmatch(ID, stem):
            raise UsageError(
                f"{place}: no 'id', and {stem!r} of its file_name cannot be one; give each record an 'id' of letters, "
                "digits, '.', '_' and '-'"
            )
        if not self._said:
            log.warning("%s: without 'id', the stem of 'file_name' is a record's id, such as '%s'", self._name, stem)
            self._said = True
        return as_record(data | {"id": stem}, place)


def _stem(file_name: str) -> str:
    return PurePosixPath(file_name).stem


def parse_lines(
    file: Iterable[bytes], name: str, parse: Callable[[str, str], Record] = parse_line
) -> Iterator[tuple[str, Record]]:
    """Each record of a JSONL file and its place; a byte order mark, CRLF and empty lines are no part of it.

    `parse` turns a line, given its place, into a record.

    Raises:
        UsageError: a line that is not a record.
    """
    for number, raw in enumerate(file, 1):
        place = f"{name}:{number}"
        if line := _text(raw, number, place):
            yield place, parse(line, place)


def _text(raw: bytes, number: int, place: str) -> str:
    """The text of a line, of which a byte order mark, CRLF and space around it are no part.

    Raises:
        UsageError: not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError:
        raise UsageError(f"{place}: not UTF-8 text; remove or repair the line") from None


def by_prompt(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """The records of each prompt, which stand side by side; only those of one prompt are held.

    Raises:
        UsageError: a prompt comes again after others.
    """
    seen: set[str] = set()
    for prompt_id, group in groupby(entries, key=lambda entry: entry.record.prompt_key):
        together = list(group)
        if prompt_id in seen:
            raise UsageError(
                f"{together[0].place}: prompt {prompt_id!r} comes again after others; sort the records by prompt, so "
                "that those of each stand side by side"
            )
        seen.add(prompt_id)
        yield together


def unique(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries, whose ids must differ.

    Raises:
        UsageError: an id that was used before.
    """
    seen: dict[str, str] = {}
    for entry in entries:
        first = seen.setdefault(entry.record.id, entry.place)
        if first != entry.place:
            raise UsageError(f"{entry.place}: id {entry.record.id!r} was used before, at {first}; ids must be unique")
        yield entry
