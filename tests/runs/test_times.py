"""What a folder knows of the time that its stages took."""

from __future__ import annotations

from pathlib import Path

import pytest

from realign_cli.console import StageTime
from realign_cli.runs.times import TIMES, add_times, seconds_per_image


def test_the_mean_is_over_the_images_of_all_runs_and_workers(tmp_path: Path) -> None:
    add_times(tmp_path, {"tag": StageTime(4, 2.0), "refine": StageTime(2, 3.0)})
    add_times(tmp_path, {"tag": StageTime(0, 0.5), "refine": StageTime(6, 5.0)})
    assert seconds_per_image(tmp_path) == {"tag": 0.5, "refine": 1.0}


def test_a_run_without_work_leaves_no_file(tmp_path: Path) -> None:
    add_times(tmp_path, {"tag": StageTime()})
    assert not (tmp_path / TIMES).exists() and seconds_per_image(tmp_path) == {}


@pytest.mark.parametrize("text", ["[", "{}\n", '{"stage": "tag", "images": "x", "seconds": 1}', "1"])
def test_a_file_that_was_edited_decides_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / TIMES).write_text(text)
    assert seconds_per_image(tmp_path) == {}
