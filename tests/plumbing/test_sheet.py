"""The contact sheet shows the strips of a folder in the order of its records."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from realign_cli.plumbing import atomic
from realign_cli.plumbing.folder import RunFolder
from realign_cli.plumbing.sheet import SHEET, write_contact_sheet
from realign_cli.records import Record


def test_strips_row_by_row(tmp_path: Path) -> None:
    ids = ["3", "1", "4", "2", "without"]
    folder = RunFolder(tmp_path, {})
    for one in ids:
        folder.add(Record(id=one, text="a"))
    for one in ids[:-1]:
        strip = Image.new("RGB", (20, 10), (int(one),) * 3)
        atomic.write_png(tmp_path / "pictures" / f"{one}-strip.png", strip)
    folder.complete(ids)
    write_contact_sheet(tmp_path)
    sheet = Image.open(tmp_path / SHEET)
    centres = [(sheet.width * x // 6, sheet.height * y // 4) for y in (1, 3) for x in (1, 3, 5)]
    assert [sheet.getpixel(centre)[0] for centre in centres] == [3, 1, 4, 2, 255, 255]


def test_no_strips_no_sheet(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    folder.add(Record(id="1", text="a"))
    folder.complete(["1"])
    write_contact_sheet(tmp_path)
    assert not (tmp_path / SHEET).exists()
