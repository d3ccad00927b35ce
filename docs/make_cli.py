"""Write docs/cli.md from the help pages: `python docs/make_cli.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import typer

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cli.md"
_WIDTH = "100"


def page() -> str:
    """The help of `realign` and of each command as Markdown."""
    sys.path.insert(0, str(ROOT))
    from realign_cli.app import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    paths = [
        [name, *sub] for name, one in commands.items() for sub in ([], *([s] for s in getattr(one, "commands", [])))
    ]
    sections = [_section(path) for path in ([], *paths)]
    return "\n".join(["# Commands", "", "Made by `python docs/make_cli.py` from the help pages.", "", *sections])


def _section(command: list[str]) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REALIGN_")}
    environment |= {
        "COLUMNS": _WIDTH,
        "TERMINAL_WIDTH": _WIDTH,
        "NO_COLOR": "1",
        "TERM": "dumb",
        "PYTHONIOENCODING": "utf-8",
    }
    line = [sys.executable, "-m", "realign_cli", *command, "--help"]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=True)
    text = "\n".join(row.rstrip() for row in done.stdout.strip("\n").split("\n")).strip()
    return f"## {' '.join(['realign', *command])}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
