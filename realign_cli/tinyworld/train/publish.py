"""Put trained weights into the package: fp16 safetensors, a model card, and a line in SHA256SUMS for every file."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from realign_cli.files import atomic

WEIGHTS = Path(__file__).parents[1] / "weights"


def model_card(
    *,
    model: str,
    parameters: int,
    trained_on: str,
    steps: str,
    minutes: str,
    quality: Mapping[str, str],
    notes: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The rows of the card of a trained model. Texts are written as given.

    `model` names the class, or the classes of its parts; `quality` maps the name of a measurement to its result with n,
    and `notes` further facts about the training to their texts.
    """
    return {
        "model": f"{model}, {parameters / 1e6:.2f} M parameters",
        "trained on": trained_on,
        **(notes or {}),
        "steps": steps,
        "minutes": f"{minutes} (one thread of a busy two-core machine)",
        **quality,
    }


def percentage(hits: Iterable[bool]) -> str:
    """The share of hits for a card: per cent and n."""
    values = list(hits)
    return f"{100 * sum(values) / len(values):.1f} % (n = {len(values)})"


def publish(role: str, folder: Path, card: Mapping[str, str]) -> None:
    """Replace the packaged folder of `role` by a copy of `folder`, with the rows of `card` as its README.md."""
    final = WEIGHTS / role
    staging = atomic.temporary(final)
    atomic.remove_leftovers(WEIGHTS)
    shutil.copytree(folder, staging)
    for config in staging.rglob("config.json"):
        _forget_origin(config)
    lines = [f"# {role}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in card.items())]
    command = f"python -m realign_cli.tinyworld.train {role}"
    (staging / "README.md").write_text("\n".join([*lines, "", f"Made by `{command}`.", ""]))
    shutil.rmtree(final, ignore_errors=True)
    staging.rename(final)
    write_sums()


def _forget_origin(config: Path) -> None:
    """Take out of a model's configuration from which folder of this machine its weights were loaded."""
    settings = json.loads(config.read_text())
    if settings.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(settings, indent=2) + "\n")


def write_sums() -> None:
    """Write the SHA-256 sum of every packaged file into SHA256SUMS."""
    files = sorted(p for p in WEIGHTS.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(WEIGHTS).as_posix()}" for p in files]
    atomic.write_text(WEIGHTS / "SHA256SUMS", "\n".join(sums) + "\n")
