"""What tests do with commands that ran, and with the folders that these filled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from realign_cli.runs.times import TIMES

Finished = CompletedProcess[str]
Run = Callable[..., Finished]  # the fixtures `realign` and `shell`


def succeed(done: Finished) -> Finished:
    assert done.returncode == 0, done.stderr
    return done


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def repeatable(folder: Path) -> dict[str, bytes]:
    """The same without the account of how long it took."""
    return {name: data for name, data in contents(folder).items() if Path(name).name != TIMES}


def product(folder: Path) -> dict[str, bytes]:
    """The same without what tells how it was made."""
    return {name: data for name, data in repeatable(folder).items() if Path(name).name != "run.json"}


def records_and_images(folder: Path) -> dict[str, bytes]:
    """The same without pictures for people, which lie in a folder of their own."""
    return {name: data for name, data in product(folder).items() if "/" not in name}


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
