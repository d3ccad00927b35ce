"""docs/cli.md is what the help pages say."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from realign_cli.app import app

DOCS = Path(__file__).parents[1] / "docs"


def test_the_command_page_is_fresh() -> None:
    fresh = runpy.run_path(str(DOCS / "make_cli.py"))["page"]()
    assert "## realign refine" in fresh and "--keep" in fresh
    stale = (DOCS / "cli.md").read_text(encoding="utf-8") != fresh
    assert not stale, "docs/cli.md is stale: run 'python docs/make_cli.py'"


def test_help_lists_commands_by_job_in_the_order_of_use() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    found = re.findall(r"─ ([^─]+) ─|^│ ([a-z][a-z-]*)  ", shown, flags=re.MULTILINE)
    assert [panel or command for panel, command in found][1:] == [  # after the options
        *("The method, in order", "train", "rewrite", "generate", "caption-reward", "select"),
        *("tag", "score", "segment", "refine"),
        *("Judging it", "eval", "compare", "bench", "report", "study"),
        *("Whole runs", "demo", "run", "status"),
        *("Data in and out", "prompts", "import", "export"),
        *("This computer", "doctor", "download", "convert"),
    ]


def test_paragraphs_flow_to_the_width_of_the_screen() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "realign_cli", "generate", "--help"],
        env={**os.environ, "COLUMNS": "300", "TERMINAL_WIDTH": "300"},
        capture_output=True,
        text=True,
    )
    (line,) = (line for line in done.stdout.splitlines() if "A .txt file holds" in line)
    assert line.rstrip().endswith("imagefolder.")
    assert "\n realign generate --prompts prompts.txt --out coarse/ " in done.stdout
