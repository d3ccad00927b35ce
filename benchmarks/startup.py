"""Start of `realign --help` against that of an empty Typer program, in turn: `python benchmarks/startup.py`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 11
EMPTY = "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'])"
OURS = "from realign_cli.app import app; app(['--help'])"


def seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    seconds(EMPTY), seconds(OURS)
    pairs = [(seconds(OURS), seconds(EMPTY)) for _ in range(RUNS)]
    ratios = sorted(ours / empty for ours, empty in pairs)
    sys.stdout.write(
        f"help page, ours / empty Typer program: median {statistics.median(ratios):.2f}, "
        f"range {ratios[0]:.2f} to {ratios[-1]:.2f}, n = {RUNS} pairs\n"
    )


if __name__ == "__main__":
    main()
