"""Whoever reads a pipe can tell its end from a break, wherever it broke, and other programs see plain JSON lines."""

from __future__ import annotations

import io
import json
import os
import select
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TextIO

import pytest

from realign_cli.data.pipe import RecordWriter, record_lines
from realign_cli.errors import RealignError
from realign_cli.records import Record, parse_line

RECORDS = [Record(id="a", text='of "{braces}"', tags=[]), Record(id="b", text="é\u2028"), Record(id="c", text="}")]


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, TextIO]]:
    reading, writing = os.pipe()
    with open(reading, "rb") as source, open(writing, "w") as target:
        yield source, target


def written(pipe: tuple[BinaryIO, TextIO]) -> bytes:
    """What a stage writes that comes to its end."""
    source, target = pipe
    writer = RecordWriter(target)
    for record in RECORDS:
        writer.write(record)
    writer.end()
    target.close()
    return source.read()


def read(data: bytes) -> list[Record]:
    return [parse_line(line.decode(), "") for line in record_lines(io.BytesIO(data), "stdin")]  # type: ignore[arg-type]


def test_what_is_written_is_read_and_is_lines_of_json(pipe: tuple[BinaryIO, TextIO]) -> None:
    data = written(pipe)
    assert read(data) == RECORDS
    assert data.endswith(b"}\n") and data.count(b"\n") == 3
    assert [json.loads(line)["id"] for line in data.split(b"\n")[:-1]] == ["a", "b", "c"]


def test_a_break_is_told_wherever_it_is(pipe: tuple[BinaryIO, TextIO]) -> None:
    data = written(pipe)
    ends = [end for end in range(1, len(data)) if data[end - 1 : end] != b"\n"]  # which comes with what follows it
    assert len(ends) == len(data) - 3
    for length in ends:
        given = []
        with pytest.raises(RealignError, match=r"stdin: the command before this one ended early, after \d records"):
            given += record_lines(io.BytesIO(data[:length]), "stdin")  # type: ignore[arg-type]
    assert list(record_lines(io.BytesIO(b""), "stdin")) == []  # type: ignore[arg-type]


def test_a_record_is_there_before_its_line_has_ended(pipe: tuple[BinaryIO, TextIO]) -> None:
    source, target = pipe
    writer, lines = RecordWriter(target), record_lines(source, "stdin")
    for record in RECORDS:
        writer.write(record)
        writer.flush()
        assert parse_line(next(lines).decode(), "") == record  # or waits for ever
    target.close()
    with pytest.raises(RealignError, match="after 3 records"):
        next(lines)


def test_no_line_feed_comes_alone(pipe: tuple[BinaryIO, TextIO], monkeypatch: pytest.MonkeyPatch) -> None:
    """But the last: of a record that does not fit into the pipe, as much as the kernel writes in one piece."""
    pieces: list[bytes] = []
    write = os.write

    def writing(descriptor: int, data: bytes) -> int:
        pieces.append(data)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", writing)
    source, target = pipe
    with ThreadPoolExecutor(1) as pool:
        given = pool.submit(source.read)
        writer = RecordWriter(target)
        for length in (10, 200_000, 4096, 4095):
            writer.write(Record(id="a", text="a" * length))
        writer.end()
        target.close()
        assert [len(record.text) for record in read(given.result())] == [10, 200_000, 4096, 4095]
    begun = [piece for piece in pieces[:-1] if piece.startswith(b"\n")]
    assert [len(piece) for piece in begun] == [select.PIPE_BUF] * 3 and pieces[-1] == b"\n"


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
def test_what_comes_from_another_program_is_whole(end: str) -> None:
    lines = ['{"text": "a", "id": "a"}', '{"text": "b", "id": "b"}']
    given = record_lines(io.BytesIO(("\n".join(lines) + end).encode()), "stdin")  # type: ignore[arg-type]
    assert [line.decode().strip() for line in given if line.strip()] == lines


def test_a_file_holds_lines_and_nothing_else(tmp_path: Path) -> None:
    with (tmp_path / "records.jsonl").open("w", encoding="utf-8") as file:
        writer = RecordWriter(file)
        writer.write(RECORDS[0])
        file.flush()
        assert (tmp_path / "records.jsonl").read_text(encoding="utf-8").endswith("}\n")
        writer.end()
    assert (tmp_path / "records.jsonl").read_text(encoding="utf-8").startswith("{")
