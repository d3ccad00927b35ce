"""Interrupted runs end cleanly and say how to go on; streams that are closed, or a terminal, hold nothing up."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.runs import repeatable

from realign_cli.data.records import METADATA

if TYPE_CHECKING:
    from faults.warm import Warm

pytestmark = pytest.mark.fault

COMMAND = ("score", "--in", "source", "--out", "it's scored", "--batch-size", "1", "-q")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    tags = [{"label": "circle", "confidence": 0.9}]
    lines = [{"text": "a réd circle", "id": str(i), "tags": tags} for i in range(4)]
    (tmp_path / "source" / METADATA).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_ends_cleanly_and_the_command_it_names_goes_on(warm: Warm, here: Path, runs: int, number: int) -> None:
    whole = warm.measured(*COMMAND, cwd=here, fills=["it's scored"])
    out = here / "it's scored"
    expected = repeatable(out)
    for i in range(runs):
        for path in out.iterdir():
            path.unlink()
        at = int((i + 0.5) / runs * whole.moments[0])
        ended = warm(*COMMAND, cwd=here, signals=[number], at=at)
        assert ended.code == 130, f"at moment {at} of {whole.moments}: {ended}"
        said, _, command = ended.stderr.partition("; continue with: ")
        assert said == "realign score: interrupted; what is finished is kept"
        again = warm(*shlex.split(command)[1:], cwd=here)
        assert again.code == 0, again.stderr
        assert repeatable(out) == expected, f"at moment {at} of {whole.moments}"


STUBBORN = """
import time
from pathlib import Path
from realign_cli.models.language.rule_scorer import RuleScorer

class Stubborn(RuleScorer):
    def score(self, prompts, labels):
        try:
            Path("asked").touch()
            time.sleep(600)
        finally:
            Path("cleaning").touch()
            time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_twice_ends_at_once(here: Path, number: int) -> None:
    """Even where a library takes its time to clean up."""
    (here / "stubborn.py").write_text(STUBBORN)
    (here / "mine.toml").write_text('batch_size = 1\n[scorer]\nadapter = "stubborn:Stubborn"\ncheckpoint = ""\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "realign_cli", *COMMAND, "--preset", "mine.toml"],
        cwd=here,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(here)])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for sign in ("asked", "cleaning"):
        while not (here / sign).exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
    assert process.wait() == -number


def test_what_ignores_an_interrupt_goes_on(here: Path) -> None:
    """As do jobs in the background of a script, and under nohup."""
    ignored = f"trap '' INT; {sys.executable} -m realign_cli {shlex.join(COMMAND)}"
    process = subprocess.Popen(["sh", "-c", ignored], cwd=here, stderr=subprocess.PIPE)
    while not (here / "it's scored").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert (here / "it's scored" / METADATA).exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(shell: Callable[..., subprocess.CompletedProcess[str]], here: Path, closed: str) -> None:
    done = shell(f'"$PYTHON" -m realign_cli score --in source --out scored -q {closed}', here)
    assert (done.returncode, done.stderr) == (0, "")
    assert len((here / "scored" / METADATA).read_text().splitlines()) == 4


def test_records_are_utf_8_in_any_locale(shell: Callable[..., subprocess.CompletedProcess[str]], here: Path) -> None:
    done = shell("export PYTHONIOENCODING=ascii; realign score --in source -q | realign score -q", here)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["a réd circle"] * 4


@pytest.mark.parametrize("command", ["score", "score --out new", "eval --metrics oracle", "export geneval --out new"])
def test_a_terminal_gives_no_records(program: list[str], here: Path, command: str) -> None:
    ours, theirs = pty.openpty()
    words = [*program, *command.split(), "--in", "-"]
    done = subprocess.run(words, stdin=theirs, capture_output=True, text=True, cwd=here, timeout=600)
    os.close(ours)
    os.close(theirs)
    name = command.split()[0]
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"realign {name}: no input: give --in FOLDER, or pipe records into this command",
        f"Usage: realign {name} [OPTIONS]; 'realign {name} --help' lists them",
    ]
    assert not (here / "new").exists()
