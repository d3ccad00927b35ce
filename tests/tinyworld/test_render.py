"""`python -m realign_cli.tinyworld render`, which makes reference images for the Fréchet distance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realign_cli.data.records import read_records
from realign_cli.runs.lock import folder_lock
from realign_cli.tinyworld import scenes


def render(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "realign_cli.tinyworld", "render", "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_records_are_held_out_scenes_of_two_things_with_true_captions(tmp_path: Path) -> None:
    out = tmp_path / "real"
    done = render(out, "-n", "2", "--seed", "7")
    assert done.returncode == 0, done.stderr
    stream = scenes.scenes(7, held_out=True, count=2)
    entries = list(read_records(str(out)))
    assert [entry.record.id for entry in entries] == ["000000", "000001"]
    for entry in entries:
        scene = next(stream)
        assert entry.record.text == scene.caption
        assert np.array_equal(np.asarray(Image.open(out / str(entry.record.file_name))), scenes.render(scene))
    assert not [path for path in out.iterdir() if path.name.startswith(".")]  # neither a lock nor a journal is left


def test_a_folder_in_which_another_process_is_at_work_is_refused(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        done = render(tmp_path, "-n", "1")
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert done.returncode == 2
    assert "is at work on this folder" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("option", [("-n", "0"), ("--seed", "-1")], ids=" ".join)
def test_a_number_out_of_range_is_refused(tmp_path: Path, option: tuple[str, str]) -> None:
    done = render(tmp_path / "real", *option)
    assert done.returncode == 2 and f"'{option[0]}'" in done.stderr
    assert not (tmp_path / "real").exists()
