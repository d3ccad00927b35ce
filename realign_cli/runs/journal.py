"""Finished records by id: a run adds to a journal on disk and reads them back, so that they need not stay in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from realign_cli.data.records import METADATA, parse_lines, parts
from realign_cli.errors import RealignError, UsageError
from realign_cli.files import atomic
from realign_cli.records import Record, dump_line, parse_line
from realign_cli.runs import lock

Lines = Mapping[str, bytes]  # id -> its line of JSON, with the line feed


class Journal(Mapping[str, bytes]):
    """The lines of a folder: `earlier` ones, and those that this run adds to its own file at `path`.

    Of the latter, only the places are held. What lay in the file before stays, but for a last line that a kill tore.
    The file is locked until `close`, whatever became of the lock of its folder.

    Raises:
        UsageError: another process has it locked.
        RealignError: it cannot be written, or its file system has no locks.
    """

    def __init__(self, path: Path, earlier: Lines) -> None:
        self._path, self._earlier = path, earlier
        with atomic.report_os_errors(path):
            self._file = path.open("a+b", buffering=0)
        if not lock.take(self._file):
            self._file.close()
            raise UsageError(f"{path}: another process is writing here; wait for it, or stop it")
        _mend(path)
        self._end = path.stat().st_size
        self._places: dict[str, tuple[int, int]] = {}
        self._pending: dict[str, bytes] = {}

    @property
    def pending(self) -> bool:
        """Whether records were added since the last flush."""
        return bool(self._pending)

    def add(self, record: Record) -> None:
        self._pending[record.id] = _line(record)

    def flush(self) -> None:
        """Make everything added so far survive a power cut; only then it can be read back.

        Raises:
            RealignError: it cannot be written, or another process wrote here too, as one on another host might that the
                lock does not reach; what an earlier flush wrote is safe.
        """
        if not lock.is_at(self._path, self._file) or os.fstat(self._file.fileno()).st_size != self._end:
            raise RealignError(
                f"{self._path}: another process has written here too, so nothing more is added; stop one of the two "
                "and run the command again, which goes on with what is finished"
            )
        if not self._pending:
            return
        data = b"".join(self._pending.values())
        with atomic.report_os_errors(self._path, len(data)):
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        for record_id, line in self._pending.items():
            self._places[record_id] = self._end, len(line)
            self._end += len(line)
        self._pending.clear()

    def close(self) -> None:
        """Give the file to whoever goes on."""
        self._file.close()

    def remove(self) -> None:
        self._path.unlink()
        self._file.close()

    def __getitem__(self, record_id: str) -> bytes:
        if record_id not in self._places:
            return self._earlier[record_id]
        start, length = self._places[record_id]
        return os.pread(self._file.fileno(), length, start)

    def __iter__(self) -> Iterator[str]:
        yield from self._earlier
        yield from (record_id for record_id in self._places if record_id not in self._earlier)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Records(Mapping[str, Record]):
    """Records by id, made from their lines when they are asked for: as models they take ten times the memory."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def __getitem__(self, record_id: str) -> Record:
        return parse_line(self._lines[record_id].decode(), record_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


def finished_records(folder: Path) -> Records:
    """All records that lie finished in `folder`, of a complete run or of the shards so far."""
    return Records(finished_lines(folder))


def finished_lines(folder: Path) -> Lines:
    """The lines of `finished_records`."""
    newer = read_lines(parts(folder))  # before `metadata.jsonl`, into which they may go at any time
    return read_lines([folder / METADATA]) | newer


def read_lines(files: Iterable[Path]) -> dict[str, bytes]:
    """The lines in `files`, as a run writes them, those of later files first; what is not there or torn is none.

    Only journals are torn, by a kill; `metadata.jsonl` comes whole, from whatever editor.
    """
    lines: dict[str, bytes] = {}
    for path in files:
        with suppress(FileNotFoundError), path.open("rb") as file:
            whole = file if path.name == METADATA else (line for line in file if line.endswith(b"\n"))
            lines |= {record.id: _line(record) for _, record in parse_lines(whole, str(path))}
    return lines


def write_lines(path: Path, lines: Lines, ids: Sequence[str]) -> None:
    """Write a JSONL file of the records with these `ids`, in their order, which survives a power cut from now on.

    Raises:
        RealignError: it cannot be written; an old file stays as it was.
    """
    with atomic.report_os_errors(path, sum(len(lines[i]) for i in ids)):
        with atomic.writing(path) as file:
            file.writelines(lines[i] for i in ids)
        atomic.sync(path.parent)


def _line(record: Record) -> bytes:
    return (dump_line(record) + "\n").encode()


def _mend(path: Path) -> None:
    """Cut off a last line that a kill has torn."""
    if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        with atomic.report_os_errors(path):
            os.truncate(path, data.rfind(b"\n") + 1)
