"""`python -m realign_cli.tinyworld.train ROLE`: train one embedded model and put it into the package.

Run under `torchrun --nproc-per-node 2 -m realign_cli.tinyworld.train ROLE` to use two processes of one thread each.
"""

from __future__ import annotations

import argparse
import importlib
import logging
from pathlib import Path

ROLES = (
    "vae",
    "text",
    "generator",
    "captioner",
    "blip",
    "tagger",
    "detector",
    "masks",
    "clip",
    "negclip",
    "features",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m realign_cli.tinyworld.train", description=__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--work", type=Path, default=Path("runs/tinyworld"), help="logs and resumable state go here")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    module = importlib.import_module(f"realign_cli.tinyworld.train.{arguments.role}")
    module.main(arguments.work / arguments.role)


if __name__ == "__main__":
    main()
