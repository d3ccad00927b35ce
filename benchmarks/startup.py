"""Start of each command's help page against that of an empty Typer program, in turn.

python benchmarks/startup.py [--quick]
"""

from __future__ import annotations

import sys

import typer
from ratios import PAIRS, Row, main, used

from realign_cli.app import app

EMPTY = "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'])"


def seconds(code: str) -> float:
    return used([sys.executable, "-c", code]).seconds


def ours(*command: str) -> str:
    return f"from realign_cli.app import app; app({[*command, '--help']!r})"


def measure(quick: bool) -> list[Row]:
    commands = [[], *([name] for name in sorted(typer.main.get_command(app).commands))]
    found = []
    for command in commands[:2] if quick else commands:
        pairs = []
        for _ in range(1 if quick else PAIRS):
            pairs.append(seconds(ours(*command)) / seconds(EMPTY))
        name = " ".join(["realign", *command, "--help"])
        found.append(Row(f"`{name}` / an empty Typer program", pairs, "`app = typer.Typer()`, one command", "1"))
    return found


if __name__ == "__main__":
    main(measure)
