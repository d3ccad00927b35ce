"""Records on a pipe, whose end can be told from a break.

A process sees that its pipe has ended and not why: the one before it may have been through, or killed. So a stage
begins what it writes into a pipe with a blank, by which a reader knows a stage, and writes the line feed of a record
only with the next one, or once everything it had to do is done. Where that last line feed is missing, the stage ended
early, whatever ended it, and so does its reader, which thereby tells the next.

For every other program these are plain JSON lines: no line says anything but a record. `cat`, `tee` and `head` pass the
break on; `grep` and `jq` end every line themselves, and what comes from them, or from any program that is no stage,
counts as whole. That is why no run deletes finished records because they did not come through a pipe.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from select import PIPE_BUF
from typing import IO, TextIO

from realign_cli.errors import RealignError
from realign_cli.records import Record, dump_line

_SIGN = " "  # which JSON allows before a record
_CHUNK = 1 << 20


class RecordWriter:
    """Writes records into a stream, as lines; into a pipe as the module says, and at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._pipe = stream, _pipe(stream)
        self._before = _SIGN

    def write(self, record: Record) -> None:
        if self._pipe is None:
            self._stream.write(dump_line(record) + "\n")
            return
        _write(self._pipe, (self._before + dump_line(record)).encode())
        self._before = "\n"

    def flush(self) -> None:
        self._stream.flush()

    def end(self) -> None:
        """Tell the reader that these were all."""
        self._stream.flush()
        if self._pipe is not None and self._before != _SIGN:
            _write(self._pipe, b"\n")


def record_lines(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """The lines that come through a pipe, those of a stage as soon as their record is whole.

    Raises:
        RealignError: at the end, where the stage that wrote them ended early.
    """
    rest, by_stage, given, count = b"", None, False, 0
    while chunk := stream.read1(_CHUNK):  # type: ignore[attr-defined]  # what is there, without waiting for more
        by_stage = chunk.startswith(_SIGN.encode()) if by_stage is None else by_stage
        *lines, rest = (rest + chunk).split(b"\n")
        if given and lines:
            given = bool(lines.pop(0).strip())  # the end of a line that was given before
        for line in lines:
            count += 1
            yield line
        if by_stage and not given and _is_whole(rest):
            count += 1
            yield rest
            rest, given = b"", True
    if by_stage and (given or rest):
        raise RealignError(
            f"{name}: the command before this one ended early, after {count} records; what is finished is kept, so run "
            "the pipe again"
        )
    if rest:
        yield rest


def _is_whole(line: bytes) -> bool:
    """Whether a line that has not ended yet is a record already; no part of a JSON object is one."""
    if not line.endswith(b"}"):
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _write(pipe: int, data: bytes) -> None:
    """Write all of `data`; so many bytes come through in one piece that no line feed is there without what follows."""
    size = PIPE_BUF
    while data:
        data, size = data[os.write(pipe, data[:size]) :], len(data)


def _pipe(stream: TextIO) -> int | None:
    """The descriptor of the stream if a process reads it, and not a file or a person."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # no stream of the system
        return None
    return stream.fileno() if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None
