"""What images get for the passes of the generator that they cost: draws, best of N, draw-and-verify, and the loop.

    python benchmarks/compute_frontier.py try draws --seed 42 --tries 8      (and: regional, modulation; --model DIR)
    python benchmarks/compute_frontier.py table runs/frontier

`try` makes the tries of 520 held-out prompts of the embedded world, judges each by the oracle, which chooses none, and
appends a line per prompt to runs/frontier/NAME.jsonl; killed, it goes on. `draws` always makes all of its images, the
loops stop at a reward of 0.95, as `realign run` does. From these lines `table` computes every budget: the first try
alone, the best of the first N by the caption reward, draw-and-verify and the loops with at most N tries. A loop of N
tries is the beginning of one of more.

Intervals are of the paired difference to plain, or to draw-and-verify at the same number of tries: 95 %, bootstrap over
prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COUNT, GOOD, BATCH = 520, 0.95, 32
FOLDER = Path("runs/frontier")
Line = dict[str, Any]


def make(name: str, out: Path, seed: int, tries: int, model: Path | None) -> None:
    """Append the tries of each prompt that `out` has not yet."""
    import torch

    from realign_cli import presets
    from realign_cli.records import Record, noise_seed
    from realign_cli.registry import Models
    from realign_cli.roles import Request
    from realign_cli.settings import Loop
    from realign_cli.stages.base import Item
    from realign_cli.stages.tries import KeepTrying
    from realign_cli.tinyworld.oracle import Oracle
    from realign_cli.tinyworld.scenes import held_out_prompts

    torch.set_flush_denormal(True)
    method = name if name in ("regional", "modulation") else "regional"
    preset = presets.with_model(presets.load("tiny", [f"refine.method={method}"]), model)
    models = Models(preset, "cpu")
    generate, seen = models.generator.generate, {}

    def remember(requests: Sequence[Request], control: Any = None) -> list[Any]:
        images = generate(requests, control)
        for request, image in zip(requests, images, strict=True):
            seen.setdefault(request.record, []).append(image)
        return images

    models.generator.generate = remember  # type: ignore[method-assign]
    good = GOOD if name != "draws" else 2.0  # which no caption earns
    stage = KeepTrying(models, models.region_control, Loop(tries=tries, good_enough=good, mend=name != "draws"))
    done = {json.loads(line)["id"] for line in out.read_text().splitlines()} if out.exists() else set()
    records = [Record(id=f"{i:06d}", text=text, seed=seed) for i, text in enumerate(held_out_prompts()[:COUNT])]
    left = [record for record in records if record.id not in done]
    out.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(left), BATCH):
        batch = left[start : start + BATCH]
        seen.clear()
        first = models.generator.generate([Request(r.text, noise_seed(r), record=r.id) for r in batch])
        outcomes = stage([Item(record, image) for record, image in zip(batch, first, strict=True)])
        with out.open("a") as file:
            for record, outcome in zip(batch, outcomes, strict=True):
                images, made = seen[record.id], outcome.changes["tries"].made  # type: ignore[union-attr]
                read = Oracle().measure(images, [record.text] * len(images))
                lines = [
                    {"how": one.how, "reward": one.caption.reward, **{key: read[key][i] for key in read}}
                    for i, one in enumerate(made)
                ]
                file.write(json.dumps({"id": record.id, "tries": lines}) + "\n")
        sys.stderr.write(f"{out}: {len(done) + start + len(batch)} of {len(records)}\n")


@dataclass(frozen=True)
class Way:
    """How one budget is spent: which of the tries are paid for, of which the best by the reward is kept."""

    name: str
    file: str
    tries: int
    verified: bool  # stops at the first that is good enough

    def spend(self, tries: Sequence[Line]) -> tuple[int, float]:
        """Passes, and whether what is kept is all correct."""
        paid = list(tries[: self.tries])
        if self.verified:
            stop = next((i for i, one in enumerate(paid) if one["reward"] >= GOOD), len(paid) - 1)
            paid = paid[: stop + 1]
        return len(paid), max(paid, key=lambda one: one["reward"])["all_correct"]


def ways(most: int) -> list[Way]:
    budgets = [n for n in (2, 3, 4, 8) if n <= most]
    return [
        Way("plain", "draws", 1, False),
        *(Way(f"best of {n}", "draws", n, False) for n in budgets),
        *(Way(f"draw and verify, {n} tries", "draws", n, True) for n in budgets),
        *(Way(f"loop, modulation (the paper's), {n} tries", "modulation", n, True) for n in budgets),
        *(Way(f"loop, regional, {n} tries", "regional", n, True) for n in budgets),
    ]


def interval(differences: np.ndarray) -> str:
    draws = np.random.default_rng(0).choice(differences, (10_000, len(differences))).mean(1)
    low, high = 100 * np.quantile(draws, [0.025, 0.975])
    return f"{100 * differences.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def table(folder: Path) -> str:
    """One table for each suffix of the files (a seed, a model), in Markdown."""
    suffixes = sorted({path.stem.partition("-")[2] for path in folder.glob("draws*.jsonl")})
    return "\n".join(_table(folder, suffix) for suffix in suffixes)


def _table(folder: Path, suffix: str) -> str:
    runs = {}
    for name in ("draws", "modulation", "regional"):
        path = folder / f"{name}-{suffix}.jsonl"
        if path.exists():
            lines = map(json.loads, path.read_text().splitlines())
            runs[name] = {line["id"]: line["tries"] for line in lines}
    ids = sorted(set.intersection(*(set(run) for run in runs.values())))
    most = min(len(tries) for tries in runs["draws"].values())
    spent: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    rows = [f"**{suffix}**, n = {len(ids)}", "", "| | mean passes | all correct | to plain | to draw and verify |"]
    rows.append("|---|---|---|---|---|")
    for way in ways(most):
        if way.file not in runs:
            continue
        passes, right = (np.array(x) for x in zip(*(way.spend(runs[way.file][i]) for i in ids), strict=True))
        spent[way.name] = passes, right
        plain = "" if way.tries == 1 else interval(right - spent["plain"][1])
        rival = spent.get(f"draw and verify, {way.tries} tries")
        versus = interval(right - rival[1]) if rival and way.file != "draws" else ""
        rows.append(f"| {way.name} | {passes.mean():.2f} | {100 * right.mean():.1f} % | {plain} | {versus} |")
    return "\n".join([*rows, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest="command", required=True)
    trying = sub.add_parser("try", help="make and judge the tries of every prompt")
    trying.add_argument("name", choices=["draws", "regional", "modulation"])
    trying.add_argument("--seed", type=int, default=42)
    trying.add_argument("--tries", type=int, default=8)
    trying.add_argument("--model", type=Path, help="what realign train made")
    trying.add_argument("--folder", type=Path, default=FOLDER)
    showing = sub.add_parser("table", help="the table of what was made")
    showing.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    given = parser.parse_args()
    if given.command == "table":
        sys.stdout.write(table(given.folder))
        return
    suffix = f"seed-{given.seed}" + (f"-{given.model.name}" if given.model else "")
    make(given.name, given.folder / f"{given.name}-{suffix}.jsonl", given.seed, given.tries, given.model)


if __name__ == "__main__":
    main()
