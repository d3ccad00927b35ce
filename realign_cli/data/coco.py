"""The images of COCO 2014 val, by their published numbers, from an unpacked folder or from parquet files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

from realign_cli import console
from realign_cli.errors import RealignError, UsageError, first_line
from realign_cli.files import atomic

TITLE = "COCO 2014 val"
_COUNT = 40_504
_NAME = re.compile(r"COCO_val2014_(\d{12})\.jpg")
_ROWS = 64  # images held at a time


def in_folder(folder: Path) -> dict[int, Path]:
    """All images of an unpacked val2014, by number.

    Raises:
        UsageError: no such folder, or it does not hold all images.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; name an unpacked val2014")
    images = _numbered(folder)
    _require_all(images, str(folder))
    return images


def in_parquet(files: Sequence[Path]) -> set[int]:
    """The numbers of all images in the parquet files of the set, which have a column `file_name`.

    Raises:
        RealignError: a file that cannot be read.
        UsageError: they do not hold all images.
    """
    numbers = {number for row in _rows(files, "file_name") if (number := _number(row["file_name"])) is not None}
    _require_all(numbers, "the parquet files")
    return numbers


def unpack(files: Sequence[Path], wanted: Set[int], out: Path, *, quiet: bool) -> dict[int, Path]:
    """Write the images `wanted` into the folder `out`, as they were published; those that are there are passed over.

    Raises:
        RealignError: a file that cannot be read, or no room.
    """
    there = _numbered(out) if out.is_dir() else {}
    with console.progress("unpack", len(wanted), quiet=quiet) as advance:
        advance(len(there))
        for row in _rows(files, "file_name", "image") if wanted - there.keys() else ():
            number = _number(row["file_name"])
            if number is not None and number in wanted and number not in there:
                there[number] = out / row["file_name"]
                atomic.write_bytes(there[number], row["image"]["bytes"])
                advance(1)
    return there


def _number(name: object) -> int | None:
    found = _NAME.fullmatch(str(name))
    return int(found[1]) if found else None


def _numbered(folder: Path) -> dict[int, Path]:
    return {number: path for path in folder.iterdir() if (number := _number(path.name)) is not None}


def _require_all(images: Iterable[int], place: str) -> None:
    count = sum(1 for _ in images)
    if count != _COUNT:
        raise UsageError(f"{place}: {count:,} images of {TITLE} (COCO_val2014_*.jpg), and it has {_COUNT:,}")


def _rows(files: Sequence[Path], *columns: str) -> Iterator[dict[str, Any]]:
    from pyarrow.parquet import ParquetFile

    for path in files:
        try:
            with ParquetFile(path) as file:
                missing = [name for name in columns if name not in file.schema_arrow.names]
                if missing:
                    raise ValueError(f"no column '{missing[0]}'")
                for batch in file.iter_batches(_ROWS, columns=list(columns)):
                    yield from batch.to_pylist()
        except (OSError, ValueError, NotImplementedError) as error:
            raise RealignError(
                f"{path}: not the images of {TITLE} ({first_line(error)}); delete it and fetch it again"
            ) from None
