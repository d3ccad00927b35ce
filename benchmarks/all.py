"""Run the benchmarks and write their tables into docs/performance.md.

    python benchmarks/all.py [--quick] [SCRIPT ...]

Without names, all of them. A script's table stands between `<!-- SCRIPT -->` and `<!-- end -->`, and only the tables of
scripts that ran are written anew. `--quick` writes nothing: it runs every script as small as it goes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

from ratios import Row, table

SCRIPTS = (
    "attention_layer",
    "refine_cost",
    "maps_cost",
    "method_cost",
    "refine_cost_xl",
    "train_cost",
    "unet_step",
    "throughput",
    "scaling",
    "startup",
    "frechet",
    "eval_pass",
    "eval_tools",
    "llm_faults",
)
LIBRARIES = ("torch", "diffusers", "transformers", "numpy")
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def machine() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"{os.cpu_count()} {platform.machine()} cores, no GPU; Python {platform.python_version()}, {libraries}."


def rewritten(page: str, script: str, rows: list[Row], where: str) -> str:
    """The page with a new table of one script.

    Raises:
        ValueError: the page has no place for it.
    """
    pattern = re.compile(rf"(<!-- {script} -->\n).*?(<!-- end -->)", re.DOTALL)
    block = f"`python benchmarks/{script}.py`. {where}\n\n{table(rows)}\n"
    page, count = pattern.subn(lambda match: f"{match[1]}{block}{match[2]}", page)
    if count != 1:
        raise ValueError(f"{count} places for the table of {script}")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=", ".join(SCRIPTS))
    parser.add_argument("--quick", action="store_true", help="small and once; writes nothing")
    arguments = parser.parse_args()
    for script in arguments.scripts or SCRIPTS:
        rows = importlib.import_module(script).measure(arguments.quick)
        sys.stdout.write(f"\n{script}\n{table(rows)}\n")
        sys.stdout.flush()
        if not arguments.quick:
            PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), script, rows, machine()), encoding="utf-8")


if __name__ == "__main__":
    main()
