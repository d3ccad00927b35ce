"""One picture of many strips, for a person who wants to look before reading numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from PIL import Image

from realign_cli.data.records import read_records
from realign_cli.files import atomic
from realign_cli.runs.folder import contact_sheet_path, picture_path

_MOST, _COLUMNS, _GAP = 48, 3, 8


def write_contact_sheet(folder: Path) -> None:
    """Put the strips of the first records of `folder` on one sheet; nothing where there are none."""
    strip = picture_path(folder, "*", "strip")
    if next(strip.parent.glob(strip.name), None) is None:  # as in most folders, whose records need not be read then
        return
    paths = (picture_path(folder, entry.record.id, "strip") for entry in read_records(str(folder)))
    strips = [Image.open(path) for path in islice(filter(Path.exists, paths), _MOST)]  # each is an open file
    if strips:
        atomic.write_png(contact_sheet_path(folder), sheet_of(strips))


def sheet_of(strips: Sequence[Image.Image]) -> Image.Image:
    """One or more strips, side by side in columns."""
    width, height = max(s.width for s in strips), max(s.height for s in strips)
    columns = min(_COLUMNS, len(strips))
    rows = -(-len(strips) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP), "white")
    for i, strip in enumerate(strips):
        sheet.paste(strip, (_GAP + i % columns * (width + _GAP), _GAP + i // columns * (height + _GAP)))
    return sheet
