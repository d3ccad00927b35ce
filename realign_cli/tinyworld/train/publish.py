"""Put trained weights into the package: fp16 safetensors, a model card, and a line in SHA256SUMS for every file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from realign_cli.plumbing import atomic

WEIGHTS = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Card:
    """The content of a model card. Texts are written as given."""

    model: str  # the class, or the classes of its parts
    parameters: int
    trained_on: str
    steps: str
    minutes: str
    quality: Mapping[str, str]  # name of a measurement -> its result, with n
    notes: Mapping[str, str] = field(default_factory=dict)  # further facts about the training

    def text(self, role: str) -> str:
        """The card as Markdown."""
        rows = {
            "model": f"{self.model}, {self.parameters / 1e6:.2f} M parameters",
            "trained on": self.trained_on,
            **self.notes,
            "steps": self.steps,
            "minutes": f"{self.minutes} (one thread of a busy two-core machine)",
            **self.quality,
        }
        lines = [f"# {role}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
        return "\n".join([*lines, "", f"Made by `python -m realign_cli.tinyworld.train {role}`.", ""])


def percentage(hits: Iterable[bool]) -> str:
    """The share of hits for a card: per cent and n."""
    values = list(hits)
    return f"{100 * sum(values) / len(values):.1f} % (n = {len(values)})"


def publish(role: str, folder: Path, card: Card) -> None:
    """Replace the packaged folder of `role` by a copy of `folder`, with `card` as its README.md."""
    final = WEIGHTS / role
    staging = atomic.temporary(final)
    atomic.remove_leftovers(WEIGHTS)
    shutil.copytree(folder, staging)
    (staging / "README.md").write_text(card.text(role))
    shutil.rmtree(final, ignore_errors=True)
    staging.rename(final)
    write_sums()


def write_sums() -> None:
    """Write the SHA-256 sum of every packaged file into SHA256SUMS."""
    files = sorted(p for p in WEIGHTS.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(WEIGHTS).as_posix()}" for p in files]
    atomic.write_text(WEIGHTS / "SHA256SUMS", "\n".join(sums) + "\n")
