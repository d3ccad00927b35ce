"""Start of each command: its help page against that of an empty Typer program, and its first record against imports.

    python benchmarks/startup.py [--quick]

The second is a whole run over one record, the loading of small models and its result included, against a process that
imports what the command needs of torch and the libraries on it, and does nothing.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import typer
from ratios import PAIRS, Row, main, used
from scaling import run, write

from realign_cli.app import app

NEEDS = {
    "score": "import pydantic, rich.progress, typer",
    "tag": "from transformers import SwinModel",
    "caption-reward": "from transformers import Blip2ForConditionalGeneration",
    "segment": "import segment_anything; from transformers import GroundingDinoForObjectDetection",
    "eval": "import open_clip; from transformers import Blip2ForImageTextRetrieval",
}
EMPTY = "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'])"


def seconds(code: str) -> float:
    return used([sys.executable, "-c", code]).seconds


def ours(*command: str) -> str:
    return f"from realign_cli.app import app; app({[*command, '--help']!r})"


def help_pages(quick: bool) -> list[Row]:
    commands = [[], *([name] for name in sorted(typer.main.get_command(app).commands))]
    found = []
    for command in commands[:2] if quick else commands:
        pairs = []
        for _ in range(1 if quick else PAIRS):
            pairs.append(seconds(ours(*command)) / seconds(EMPTY))
        name = " ".join(["realign", *command, "--help"])
        found.append(Row(f"`{name}` / an empty Typer program", pairs, "`app = typer.Typer()`, one command", "1"))
    return found


def first_records(quick: bool) -> list[Row]:
    found = []
    with tempfile.TemporaryDirectory() as name:
        given, out = Path(name, "given"), Path(name, "out")
        write(given, 1)
        for command, imports in dict(list(NEEDS.items())[:1] if quick else NEEDS).items():
            pairs = []
            for _ in range(1 if quick else PAIRS):
                pairs.append(run(command, given, out).seconds / seconds(imports))
            found.append(Row(f"`realign {command}`, one record / the imports", pairs, f"`{imports}`", "1"))
    return found


def measure(quick: bool) -> list[Row]:
    return help_pages(quick) + first_records(quick)


if __name__ == "__main__":
    main(measure)
