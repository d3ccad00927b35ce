"""Every command that writes into a folder leaves one alone in which another process is at work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from support.runs import repeatable

from realign_cli.data.records import METADATA
from realign_cli.errors import UsageError
from realign_cli.runs.lock import folder_lock
from realign_cli.tinyworld.__main__ import render

if TYPE_CHECKING:
    from faults.warm import Warm

pytestmark = pytest.mark.fault

COMMANDS = [
    "score --in source --out taken",
    "prompts shapes -n 1 --out taken/prompts.jsonl",
    "import --in source --prompts prompts.txt --out taken",
    "export t2i-compbench --in source --out taken",
    "eval --in source --metrics oracle --cache cache --out taken",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_at_work_is_left_alone(warm: Warm, tmp_path: Path, command: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "prompts.txt").write_text("a\n")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "source" / "0.png")
    line = {"file_name": "0.png", "text": "a red circle", "id": "0", "tags": []}
    (tmp_path / "source" / METADATA).write_text(json.dumps(line) + "\n")
    with folder_lock(tmp_path / "taken"):
        before = repeatable(tmp_path / "taken")
        ended = warm(*command.split(), "-q", cwd=tmp_path)
        assert ended.code == 2, ended
        assert f"process {os.getpid()} on " in ended.stderr and "at work on this folder" in ended.stderr
        assert repeatable(tmp_path / "taken") == before
    ended = warm(*command.split(), "-q", cwd=tmp_path)
    assert ended.code == 0, ended
    assert ".lock" not in repeatable(tmp_path / "taken")


def test_scenes_are_not_drawn_into_a_folder_at_work(tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(UsageError, match="at work on this folder"):
        render(tmp_path, 1, 1)
    render(tmp_path, 1, 1)
    assert {"000000.png", METADATA, "run.json"} == repeatable(tmp_path).keys()
