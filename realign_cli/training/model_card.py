"""The model card of a trained model, with its curves."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realign_cli.files import atomic
from realign_cli.training.loop import CARD, CURVES, LOG, SAMPLES


def write_card(run: Path, config: Mapping[str, Any], left_out: Sequence[str] = ()) -> None:
    """Write `README.md` and `curves.png` from the configuration and the log of a finished run.

    `left_out` says where the data names images that could not be read.
    """
    lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    steps = [line for line in lines if "grad_norm" in line]
    samples = [line for line in lines if "samples/caption_reward" in line]
    base = config["settings"]["generator"]["checkpoint"]
    kind = "lora" if config["train"]["rank"] else "full"
    rows = {
        "base model": base,
        "trained": f"LoRA of rank {config['train']['rank']}" if kind == "lora" else "the whole U-Net",
        "data": f"{config['prompts']} prompts, {config['data']}",
        **({"images left out": f"{len(left_out)}: {', '.join(left_out)}"} if left_out else {}),
        "optimiser steps": f"{len(steps)}, of which {steps[-1]['skipped']} without a finite gradient were skipped",
        "Eq. 4 of the sample images": " -> ".join(f"{line['samples/caption_reward']:.3f}" for line in samples),
        "seed": config["seed"],
        **{f"train.{name}": value for name, value in config["train"].items()},
    }
    front = [
        "---",
        f"base_model: {base}",
        "library_name: diffusers",
        f"tags: [text-to-image, {kind}, diffusers]",
        "---",
    ]
    load = 'pipeline.load_lora_weights(".")' if kind == "lora" else 'pipeline = DiffusionPipeline.from_pretrained(".")'
    body = [
        "# Reward feedback learning on the caption reward",
        "",
        f"Made by `realign train`; `realign generate --model` reads this folder, and so does diffusers: `{load}`.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
        f"![curves]({CURVES})",
        "",
        f"![samples after the last step]({SAMPLES}/{samples[-1]['step']:06d}.png)",
        "",
    ]
    atomic.write_bytes(run / CURVES, _curves(steps, samples))
    atomic.write_text(run / CARD, "\n".join([*front, *body]))


def _curves(steps: list[dict[str, Any]], samples: list[dict[str, Any]]) -> bytes:
    """Every number of the log over the optimiser steps, a panel each; Eq. 4 beside each surrogate."""
    from matplotlib.figure import Figure

    names = sorted(n for n in {name for line in steps for name in line} if n.startswith(("reward/", "loss/")))
    panels = [*names, "caption_reward", "grad_norm"]
    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(panels)), panels, strict=True):
        points = [(line["step"], line[name]) for line in steps if line.get(name) is not None]
        axes.plot(*zip(*points, strict=True), linewidth=0.8)
        if name == "caption_reward":
            seen = [(line["step"], line["samples/caption_reward"]) for line in samples]
            axes.plot(*zip(*seen, strict=True), marker="o", label="sample images")
            axes.legend()
        axes.set_title("Eq. 4" if name == "caption_reward" else name)
        axes.set_xlabel("optimiser step")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
