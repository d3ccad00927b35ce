"""A disk that is full or read-only: an error that names the path and the bytes, and nothing lost that was there."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from support.runs import repeatable

from realign_cli.data.records import METADATA
from realign_cli.errors import RealignError
from realign_cli.models.language.reply_cache import ReplyCache

if TYPE_CHECKING:
    from faults.warm import Warm

pytestmark = pytest.mark.fault

PAGE = 4096  # what tmpfs counts in
FULL = re.compile(r"realign score: cannot write \S+ \(\d+ bytes\): (No space left on device|File too large)\n")
SCORE = ("score", "--in", "source", "--batch-size", "1", "-q", "--out")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """`mounted(pages)` gives a file system of so many pages; `mounted(folder, "ro")` makes it read-only."""
    mounts: list[Path] = []

    def mount(pages: int) -> Path:
        folder = tmp_path / f"disk-{pages}"
        folder.mkdir()
        options = f"size={pages * PAGE}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
        mounts.append(folder)
        return folder

    yield mount
    for folder in mounts:
        subprocess.run(["umount", "-l", folder], check=True)


def source(here: Path) -> dict[str, bytes]:
    """Three records of a page each, with images of two."""
    folder = here / "source"
    folder.mkdir()
    with (folder / METADATA).open("w") as file:
        for i in range(3):
            Image.effect_noise((80, 80), 80).save(folder / f"{i}.png")
            tags = [{"label": "circle", "confidence": 0.9}]
            line = {"file_name": f"{i}.png", "text": "a red circle", "id": str(i), "tags": tags, "of_mine": "x" * 3500}
            file.write(json.dumps(line) + "\n")
    return repeatable(folder)


def test_a_disk_that_fills_at_every_page(warm: Warm, mounted: Callable[..., Path], tmp_path: Path) -> None:
    """Whichever write is the first without room: the lock, run.json, an id, an image, the journal or the records."""
    given = source(tmp_path)
    disk = mounted(40)
    assert warm(*SCORE, disk / "whole", cwd=tmp_path).code == 0
    whole = repeatable(disk / "whole")
    whole.pop("run.json")  # its argv names the folder
    pages = sum(-(-path.stat().st_blocks * 512 // PAGE) for path in (disk / "whole").iterdir())
    for name in os.listdir(disk / "whole"):
        (disk / "whole" / name).unlink()
    failed_at = set()
    for free in range(pages + 3):  # two more for the lock and for what is begun, which are gone at the end
        filler, out = disk / "filler", disk / f"out-{free}"
        filler.write_bytes(b"x" * (40 - free) * PAGE)
        ended = warm(*SCORE, out, cwd=tmp_path)
        assert ended.code == 1 and FULL.fullmatch(ended.stderr), f"{free} pages free: {ended}"
        failed_at.add(ended.stderr.split()[4].rpartition("/")[2])
        filler.unlink()
        ended = warm(*SCORE, out, cwd=tmp_path)
        assert ended.code == 0, f"{free} pages free: {ended.stderr}"
        assert {name: data for name, data in repeatable(out).items() if name != "run.json"} == whole
        for name in os.listdir(out):
            (out / name).unlink()
    # Not the times: they take the page that a file of what was begun has given back.
    assert failed_at == {".lock", "run.json", ".begun", *(f"{i}.png" for i in range(3)), f".{METADATA}.part", METADATA}
    assert repeatable(tmp_path / "source") == given


@pytest.mark.parametrize("most", [500, 2_000, 6_000, 11_000])
def test_a_file_that_may_not_grow(warm: Warm, tmp_path: Path, most: int) -> None:
    source(tmp_path)
    metadata = tmp_path / "source" / METADATA
    lines = map(json.loads, metadata.read_text().splitlines())
    metadata.write_text("".join(json.dumps(line | {"file_name": ""}) + "\n" for line in lines))  # images are larger
    ended = warm(*SCORE, "scored", cwd=tmp_path, most_bytes=most)
    assert ended.code == 1 and FULL.fullmatch(ended.stderr), ended
    assert warm(*SCORE, "scored", cwd=tmp_path).code == 0
    assert warm(*SCORE, "whole", cwd=tmp_path).code == 0
    assert (tmp_path / "scored" / METADATA).read_bytes() == (tmp_path / "whole" / METADATA).read_bytes()


@pytest.mark.parametrize("most", [1_000, 3_000, 12_000])
def test_a_report_that_cannot_be_written(warm: Warm, tmp_path: Path, most: int) -> None:
    source(tmp_path)
    command = ("eval", "--in", "source", "--metrics", "oracle", "--cache", "cache", "--out", "measured", "-q")
    ended = warm(*command, cwd=tmp_path, most_bytes=most)
    assert ended.code == 1, ended
    assert ended.stderr.startswith("realign eval: ") and ended.stderr.count("\n") == 1, ended.stderr
    again = warm(*command, cwd=tmp_path)
    assert again.code == 0, again.stderr
    assert {"metrics.json", "scores.jsonl", "intervals.png", "values.png"} == repeatable(tmp_path / "measured").keys()


def test_a_checkpoint_without_room(mounted: Callable[..., Path]) -> None:
    import torch

    from realign_cli.training import checkpoint

    run = mounted(16)
    small, large = {"weights.a": torch.ones(8)}, {"weights.a": torch.ones(40_000)}
    checkpoint.save(run, 1, small, {}, lambda folder: None)
    before = repeatable(run)
    with pytest.raises(RealignError, match=r"cannot write checkpoint .*000002 \(160000 bytes and the model\): .*space"):
        checkpoint.save(run, 2, large, {}, lambda folder: None)
    assert repeatable(run) == before
    assert (found := checkpoint.latest(run)) and found.step == 1


def test_a_reply_without_room(mounted: Callable[..., Path]) -> None:
    disk = mounted(8)
    replies = ReplyCache(str(disk / "replies"))
    replies.put("a question", entry="short")
    before = repeatable(disk)
    with pytest.raises(RealignError, match=r"replies: cannot keep replies \(No space left on device\)"):
        replies.put("a question", entry="x" * 8 * PAGE)
    assert repeatable(disk) == before and replies.get("a question") == "short"


def test_a_read_only_disk(warm: Warm, mounted: Callable[..., Path], tmp_path: Path) -> None:
    source(tmp_path)
    disk = mounted(40)
    assert warm(*SCORE, disk / "scored", cwd=tmp_path).code == 0
    before = repeatable(disk)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for out, complaint in (("scored", f"cannot write {disk}/scored/"), ("new", f"cannot make the folder {disk}/new: ")):
        ended = warm(*SCORE, disk / out, cwd=tmp_path)
        assert ended.code == 1, ended
        assert ended.stderr.startswith(f"realign score: {complaint}") and "Read-only file system" in ended.stderr
    assert repeatable(disk) == before


def test_no_home_and_no_room_for_temporary_files(warm: Warm, mounted: Callable[..., Path], tmp_path: Path) -> None:
    source(tmp_path)
    full = mounted(1)
    (full / "filler").write_bytes(b"x" * PAGE)
    command = ("eval", "--in", "source", "--metrics", "oracle", "-q")
    lost = {"HOME": None, "XDG_CACHE_HOME": None, "REALIGN_CACHE": None}
    assert warm(*command, "--cache", "cache", cwd=tmp_path, environment=lost | {"TMPDIR": str(full)}).code == 0
    ended = warm(*command, cwd=tmp_path, environment=lost | {"HOME": str(full / "filler")})
    assert ended.code == 1
    assert ended.stderr == (
        f"realign eval: cannot make the folder {full}/filler/.cache/realign (Not a directory); "
        "set XDG_CACHE_HOME to one that can be written\n"
    )


def test_a_user_without_a_home() -> None:
    """As in a container that runs under a number of no account."""
    if os.geteuid():
        pytest.skip("only root can become a user without an account")
    from realign_cli.files.cache_folder import cache_folder

    child = os.fork()
    if not child:
        try:
            os.setuid(54_321)
            os.environ.pop("HOME", None)
            os.environ.pop("XDG_CACHE_HOME", None)
            cache_folder()
        except RealignError as error:
            os._exit(0 if "set XDG_CACHE_HOME" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
