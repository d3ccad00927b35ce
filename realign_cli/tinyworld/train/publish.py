"""Put trained weights into the package: fp16 safetensors, a model card, and a line in SHA256SUMS for every file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

WEIGHTS = Path(__file__).parents[1] / "weights"


def publish(
    role: str, save: Callable[[Path], object], card: Mapping[str, object], module: str = "tinyworld.train"
) -> None:
    """Replace the packaged folder of `role` by what `save(folder)` writes, with `card` as its README.md.

    `module` is the one that was run to make it.

    `card` holds, in this order of reading: `model` (architecture, parameters), `trained_on`, `steps`, `minutes` (and
    on what), and one entry per measured quality with its n. Values are written as they are.
    """
    staging = WEIGHTS / f".{role}.tmp"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save(staging)
    lines = [f"# {role}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in card.items())]
    command = f"python -m realign_cli.{module} {role}"
    (staging / "README.md").write_text("\n".join([*lines, "", f"Made by `{command}`.", ""]))
    final = WEIGHTS / role
    shutil.rmtree(final, ignore_errors=True)
    staging.rename(final)
    write_sums()


def write_sums() -> None:
    files = sorted(p for p in WEIGHTS.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(WEIGHTS).as_posix()}" for p in files]
    (WEIGHTS / "SHA256SUMS").write_text("\n".join(sums) + "\n")
