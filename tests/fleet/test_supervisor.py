"""Work side by side ends together, and a command that is killed runs again as long as it gets on."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from threading import Event

import pytest

from realign_cli.errors import RealignError
from realign_cli.fleet.supervisor import restart_until_done, run_concurrently

# Writes a line, and is killed until it finds as many as it was told.
MORTAL = """
import os, signal, sys
with open(sys.argv[1], "a+") as file:
    file.write("line\\n")
    file.seek(0)
    lines = len(file.readlines())
if lines < int(sys.argv[2]):
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(3)
"""


def mortal(path: Path, lives: int) -> list[str]:
    return [sys.executable, "-c", MORTAL, str(path), str(lives)]


def test_a_killed_command_runs_again_as_long_as_it_gets_on(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    assert restart_until_done(mortal(path, 6), lambda: path.exists() and path.stat().st_size, Event()) == 3
    assert len(path.read_text().splitlines()) == 6


def test_one_that_does_not_get_on_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with pytest.raises(RealignError, match="killed 3 times in a row"):
        restart_until_done(mortal(path, 6), lambda: 0, Event())
    assert len(path.read_text().splitlines()) == 3


def test_one_that_was_told_to_end_is_left_alone() -> None:
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"]
    assert restart_until_done(command, lambda: 0, Event()) < 0


def test_an_error_of_one_waits_for_the_others(tmp_path: Path) -> None:
    def bad(_: Event) -> int:
        raise RealignError("no")

    def good(_: Event) -> int:
        time.sleep(0.5)
        (tmp_path / "done").touch()
        return 0

    with pytest.raises(RealignError, match="no"):
        run_concurrently([bad, good], lambda: None)
    assert (tmp_path / "done").exists()


def test_an_interrupt_ends_all(tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"import time; open({str(tmp_path / 'up')!r}, 'w'); time.sleep(600)"]

    def interrupt() -> None:
        if (tmp_path / "up").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_concurrently([lambda stop: restart_until_done(command, lambda: 0, stop)] * 2, interrupt)
