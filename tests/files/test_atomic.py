"""A path holds the old bytes or the new ones, never a part, and nothing is left beside it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from realign_cli.errors import RealignError
from realign_cli.files import atomic


def test_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    atomic.write_text(path, "old")
    atomic.write_text(path, "é")
    assert path.read_bytes() == "é".encode()
    assert os.listdir(path.parent) == ["a.txt"]


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic.write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError):
        atomic.write_json(path, {"a": float("nan")})
    assert path.read_bytes() == before
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(RealignError, match=r"cannot write .*folder \(3 bytes\): "):
        atomic.write_bytes(folder, b"abc")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "folder"]


def test_png_is_lossless_and_repeatable(tmp_path: Path) -> None:
    image = Image.effect_noise((9, 7), 80).convert("RGB")
    for name in ("a.png", "b.png"):
        atomic.write_png(tmp_path / name, image)
    assert Image.open(tmp_path / "a.png").tobytes() == image.tobytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("clones", [True, False])
@pytest.mark.parametrize("size", [0, 5, 3_000_000])
def test_a_copy_is_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clones: bool, size: int) -> None:
    def across_file_systems(*_: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if not clones:
        monkeypatch.setattr(os, "copy_file_range", across_file_systems)
    source, target = tmp_path / "source", tmp_path / "target"
    data = os.urandom(size)
    source.write_bytes(data)
    target.write_bytes(b"old")
    atomic.copy(source, target)
    source.write_bytes(b"edited in place")
    assert target.read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == ["source", "target"]


def test_a_copy_tells_which_side_failed(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError):
        atomic.copy(tmp_path / "none", tmp_path / "target")
    with pytest.raises(RealignError, match=r"cannot write .*folder \(3 bytes\): "):
        atomic.copy(tmp_path / "source", tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == ["folder", "source"]


def test_link_is_not_written_through(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"shared")
    target.write_bytes(b"old")
    for _ in range(2):  # the second time both names are one file already
        atomic.link_or_copy(source, target)
        assert target.read_bytes() == b"shared"
    atomic.write_bytes(target, b"changed")
    assert source.read_bytes() == b"shared"
    assert sorted(os.listdir(tmp_path)) == ["source", "target"]


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    kept = tmp_path / "pictures" / "a.png"
    for path in (kept, tmp_path / ".realign-a.png.tmp", tmp_path / "pictures" / ".realign-b.png.tmp"):
        path.touch()
    atomic.remove_leftovers(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]
