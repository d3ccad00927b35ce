"""Images come in order, hashed, decoded only if they are not known, a few ahead and not more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from realign_cli.data.records import Entry
from realign_cli.evaluation.decoding import ImageDecoder
from realign_cli.records import Record


@pytest.fixture(scope="module")
def viewer() -> Iterator[ImageDecoder]:
    made = ImageDecoder()
    yield made
    made.close()


def entries(folder: Path, count: int) -> Iterator[Entry]:
    for i in range(count):
        yield Entry(Record(id=str(i), text="a", file_name=f"{i}.png"), f"line {i}", folder)


def test_in_order_and_only_what_is_not_known(tmp_path: Path, viewer: ImageDecoder) -> None:
    for i in range(20):
        Image.new("RGB", (i + 1, 2)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").unlink()
    (tmp_path / "5.png").write_bytes(b"")
    asked = []

    def known(record: Record, digest: str) -> bool:
        asked.append((record.id, digest))
        return int(record.id) % 2 == 0

    views = list(viewer.views(entries(tmp_path, 20), known))
    assert [view.entry.record.id for view in views] == [str(i) for i in range(20)]
    for i, view in enumerate(views):
        if i in (3, 5):
            assert view.error and view.error.kind == ("missing_image" if i == 3 else "unreadable_image")
            continue
        assert view.digest == hashlib.sha256((tmp_path / f"{i}.png").read_bytes()).hexdigest()
        assert (view.image is None) == (i % 2 == 0)
        assert view.image is None or view.image.size == (i + 1, 2)
    assert [record_id for record_id, _ in asked] == [str(i) for i in range(20) if i != 3]
    assert dict(asked)["0"] == views[0].digest


def test_a_few_ahead_and_not_more(tmp_path: Path, viewer: ImageDecoder) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "0.png")
    drawn = 0

    def endless() -> Iterator[Entry]:
        nonlocal drawn
        while True:
            drawn += 1
            yield Entry(Record(id=str(drawn), text="a", file_name="0.png"), "", tmp_path)

    views = viewer.views(endless(), lambda record, digest: False)
    counts = [drawn for _ in zip(views, range(300), strict=False)]
    assert max(count - i for i, count in enumerate(counts)) < 100
