"""Does the surrogate move what it claims to? A model along its training: surrogate, exact Eq. 4, and the oracle.

    python benchmarks/coarse_curve.py runs/coarse_stage caption-1 [NAME ...]

Reads what benchmarks/coarse_stage.sh made of model NAME: its log, and of the images drawn by the base model, along the
way (NAME-at-STEPS) and at the end their captions and evaluations. The surrogate is the mean over the optimiser steps
since the row above: of the reward that gradients were taken of, or for reward-weighted denoising of its loss. Images
are those that were drawn or read until there, minutes the time of the steps, without what was prepared before.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from realign_cli.equations.bootstrap import bootstrap_mean

ORACLE = ("binding", "all_correct")
HEAD = ("steps", "images", "minutes", "surrogate", "Eq. 4", *ORACLE)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def points(run: Path, name: str) -> dict[int, str]:
    """Of each number of steps whose images there are, the name of their folder."""
    last = max(row["step"] for row in rows(run / "models" / name / "log.jsonl"))
    along = {int(folder.name.rpartition("-")[2]): folder.name for folder in run.glob(f"{name}-at-*[0-9]")}
    return {0: "base"} | dict(sorted(along.items())) | {last: name}


def surrogate(run: Path, name: str, after: int, until: int) -> str:
    log = [row for row in rows(run / "models" / name / "log.jsonl") if "loss/reward" in row]
    key = next((key for key in log[0] if key.startswith("reward/")), "loss/reward")
    steps = [row[key] for row in log if after < row["step"] <= until]
    return f"{np.mean(steps):.4f} ({key})" if steps else ""


def spent(run: Path, name: str, until: int) -> tuple[int, float]:
    """Images and minutes of the first `until` optimiser steps."""
    model = run / "models" / name
    images = json.loads((model / "run.json").read_text())["config"]["train"]["effective_batch_size"]
    rates = [
        row["samples_per_s"] for row in rows(model / "log.jsonl") if row["step"] <= until and "samples_per_s" in row
    ]
    return images * until, sum(images / rate for rate in rates) / 60


def line(run: Path, name: str, folder: str, after: int, steps: int) -> str:
    rewards = np.array([row["caption"]["reward"] for row in rows(run / f"{folder}-captioned" / "metadata.jsonl")])
    found = bootstrap_mean(rewards)
    values = json.loads((run / f"{folder}-eval" / "metrics.json").read_text())["metrics"]
    judged = {row["metric"]: row["value"] for row in values if not row["category"]}
    oracle = [f"{judged[m]['mean']:.1%} ({judged[m]['low']:.1%} to {judged[m]['high']:.1%})" for m in ORACLE]
    exact = f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"
    images, minutes = spent(run, name, steps)
    cells = [str(steps), f"{images:,}", f"{minutes:.0f}", surrogate(run, name, after, steps), exact, *oracle]
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="DIR")
    parser.add_argument("names", nargs="+", metavar="NAME")
    arguments = parser.parse_args()
    for name in arguments.names:
        sys.stdout.write(f"\n{name}\n\n| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|\n")
        after = 0
        for steps, folder in points(arguments.run, name).items():
            sys.stdout.write(line(arguments.run, name, folder, after, steps))
            after = steps


if __name__ == "__main__":
    main()
