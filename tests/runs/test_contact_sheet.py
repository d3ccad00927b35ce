"""The contact sheet shows the strips of a folder in the order of its records."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from realign_cli.data.records import Entry
from realign_cli.files import atomic
from realign_cli.records import Record
from realign_cli.runs.contact_sheet import write_contact_sheet
from realign_cli.runs.folder import RunFolder, contact_sheet_path, image_name, picture_path
from realign_cli.runs.runner import run_map
from realign_cli.stages.base import Item, Outcome

if TYPE_CHECKING:
    from realign_cli.errors import RecordError


def test_strips_row_by_row(tmp_path: Path) -> None:
    ids = ["3", "1", "4", "2", "without"]
    folder = RunFolder(tmp_path, {})
    for one in ids:
        folder.add(Record(id=one, text="a"))
    for one in ids[:-1]:
        strip = Image.new("RGB", (20, 10), (int(one),) * 3)
        atomic.write_png(picture_path(tmp_path, one, "strip"), strip)
    folder.complete(ids)
    write_contact_sheet(tmp_path)
    sheet = Image.open(contact_sheet_path(tmp_path))
    centres = [(sheet.width * x // 6, sheet.height * y // 4) for y in (1, 3) for x in (1, 3, 5)]
    assert [sheet.getpixel(centre)[0] for centre in centres] == [3, 1, 4, 2, 255, 255]


def test_no_id_takes_the_place_of_the_sheet(tmp_path: Path) -> None:
    ids = ["contact_sheet", "pictures", "a", "a-strip"]
    folder = RunFolder(tmp_path, {})
    run_map([Entry(Record(id=one, text="a"), "") for one in ids], [_Draw()], out=folder, batch_size=4, echo=False)
    write_contact_sheet(tmp_path)
    for number, one in enumerate(ids):
        assert Image.open(tmp_path / image_name(one)).getpixel((0, 0)) == (number,) * 3
        assert Image.open(picture_path(tmp_path, one, "strip")).size == (20, 10)
    assert len([path for path in tmp_path.rglob("*.png")]) == 2 * len(ids) + 1


class _Draw:
    """An image of the record's number, and a strip."""

    name, requires, needs_image, sections = "draw", {}, False, ()

    def is_done(self, record: Record) -> bool:
        return False

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        strip = Image.new("RGB", (20, 10))
        return [
            Outcome(image=Image.new("RGB", (2, 2), (i,) * 3), pictures={"strip": strip.copy}) for i in range(len(items))
        ]


def test_no_strips_no_sheet(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    folder.add(Record(id="1", text="a"))
    folder.complete(["1"])
    write_contact_sheet(tmp_path)
    assert not contact_sheet_path(tmp_path).exists()


def test_more_strips_than_files_may_be_open(tmp_path: Path) -> None:
    """Of which no more are opened than are shown."""
    ids = [f"{i:03d}" for i in range(200)]
    folder = RunFolder(tmp_path, {})
    for one in ids:
        folder.add(Record(id=one, text="a"))
        picture_path(tmp_path, one, "strip").parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 2)).save(picture_path(tmp_path, one, "strip"))
    folder.complete(ids)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    limit = [number for number in range(before[0]) if number not in used][64]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        write_contact_sheet(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert Image.open(contact_sheet_path(tmp_path)).size == (3 * (4 + 8) + 8, 16 * (2 + 8) + 8)
