"""What images get for the passes of the generator that they cost: draws, best of N, draw-and-verify, and the loop.

    python benchmarks/compute_frontier.py try draws --seed 42 --tries 8      (and: regional, modulation)
    python benchmarks/compute_frontier.py table runs/frontier
    python benchmarks/compute_frontier.py plot docs/frontier.png runs/frontier

`try` makes the tries of 520 held-out prompts of the embedded world, judges each by the oracle, which chooses none, and
appends a line per prompt to runs/frontier/NAME.jsonl; killed, it goes on. `draws` always makes all of its images, the
loops stop at a reward of 0.95, as `realign run` does. `--preset`, `--model` and `--guidance` choose another generator.
From these lines `table` computes every budget: the first try alone, which is the same in every file, the best of the
first N by the caption reward, draw-and-verify and the loops with at most N tries. A loop of N tries is the beginning of
one of more.

Intervals are of the paired difference to plain, to draw-and-verify at the same number of tries, or to the same of the
base model where that was made with the same seeds: 95 %, bootstrap over prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

COUNT, GOOD, BATCH = 520, 0.95, 32
SAME, SHAPE = 16, 40  # of 255: what a pixel that stays may differ by, and what a shape differs from the ground by
FOLDER = Path("runs/frontier")
Line = dict[str, Any]


def make(name: str, out: Path, seed: int, tries: int, base: str, model: Path | None, guidance: float | None) -> None:
    """Append the tries of each prompt that `out` has not yet."""
    import torch

    from realign_cli import presets
    from realign_cli.records import Record, noise_seed
    from realign_cli.registry import Models
    from realign_cli.roles import Request
    from realign_cli.settings import Loop
    from realign_cli.stages.base import Item
    from realign_cli.stages.tries import KeepTrying
    from realign_cli.tinyworld.oracle import Oracle, read
    from realign_cli.tinyworld.scenes import held_out_prompts

    torch.set_flush_denormal(True)
    method = name if name in ("regional", "modulation") else "regional"
    settings = [f"refine.method={method}"] + ([] if guidance is None else [f"generator.guidance={guidance}"])
    preset = presets.with_model(presets.load(base, settings), model)
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
                judged = Oracle().measure(images, [record.text] * len(images))
                lines = [
                    {
                        "how": one.how,
                        "caption": one.caption.text,
                        "reward": one.caption.reward,
                        **{column: judged[column][i] for column in ("presence", "binding", "all_correct")},
                        "things": len(read(images[i])),
                        **composition(images[0], images[i]),
                    }
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


def ways(runs: dict[str, list[dict[str, list[Line]]]]) -> list[Way]:
    most = max(len(tries) for run in runs.values() for seed in run for tries in seed.values())
    budgets = [n for n in (2, 3, 4, 8) if n <= most]
    every = [
        Way("plain", next(iter(runs)), 1, False),
        *(Way(f"best of {n}", "draws", n, False) for n in budgets),
        *(Way(f"draw and verify, {n} tries", "draws", n, True) for n in budgets),
        *(Way(f"loop, modulation (the paper's), {n} tries", "modulation", n, True) for n in budgets),
        *(Way(f"loop, regional, {n} tries", "regional", n, True) for n in budgets),
    ]
    return [way for way in every if way.file in runs]


def interval(differences: np.ndarray) -> str:
    draws = np.random.default_rng(0).choice(differences, (10_000, len(differences))).mean(1)
    low, high = 100 * np.quantile(draws, [0.025, 0.975])
    return f"{100 * differences.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def lines_of(folder: Path, suffixes: Sequence[str]) -> dict[str, list[dict[str, list[Line]]]]:
    """Of each file, the tries of the prompts that all files have, seed by seed."""
    runs = {}
    for name in ("draws", "modulation", "regional"):
        paths = [folder / f"{name}-{suffix}.jsonl" for suffix in suffixes]
        if all(path.exists() for path in paths):
            lines = [map(json.loads, path.read_text().splitlines()) for path in paths]
            runs[name] = [{line["id"]: line["tries"] for line in part} for part in lines]
    ids = sorted(set.intersection(*(set(seed) for run in runs.values() for seed in run)))
    return {name: [{i: seed[i] for i in ids} for seed in run] for name, run in runs.items()}


def suffixes(folder: Path) -> dict[str, list[str]]:
    """Of each model ("" is the base model) the suffixes of its files, one of each seed."""
    found: dict[str, list[str]] = {}
    for suffix in sorted({path.stem.partition("-")[2] for path in folder.glob("*-seed-*.jsonl")}):
        found.setdefault("-".join(suffix.split("-")[2:]), []).append(suffix)
    return found


def spent(way: Way, seeds: Sequence[dict[str, list[Line]]]) -> tuple[np.ndarray, np.ndarray]:
    """Passes, and whether what is kept is all correct, (seeds, prompts)."""
    pairs = np.array([[way.spend(tries) for tries in seed.values()] for seed in seeds])
    return pairs[..., 0], pairs[..., 1]


def table(folder: Path) -> str:
    """What each way gets and what a mend keeps, for each model, in Markdown; intervals are over prompts."""
    parts = []
    base: dict[str, np.ndarray] = {}
    for model, names in sorted(suffixes(folder).items()):
        runs = lines_of(folder, names)
        first = next(iter(runs.values()))
        seeds, count = len(names), len(first[0])
        title = f"**{model or 'base model'}**, n = {count}, {', '.join(names)}"
        heads = ["", "mean passes", "all correct", "to plain", "to draw and verify"] + ["to the base model"] * bool(
            model
        )
        parts += [title, "", f"| {' | '.join(heads)} |", f"{'|---' * len(heads)}|"]
        right: dict[str, np.ndarray] = {}
        for way in ways(runs):
            passes, right[way.name] = spent(way, runs[way.file])
            each = f" ({', '.join(f'{100 * r:.1f}' for r in right[way.name].mean(1))})" if seeds > 1 else ""
            rivals = [
                right["plain"] if way.tries > 1 else None,
                right.get(f"draw and verify, {way.tries} tries") if way.file != "draws" else None,
                *([base.get(way.name)] if model else []),
            ]
            differences = [
                interval((right[way.name] - other).mean(0))
                if other is not None and other.shape == right[way.name].shape
                else ""
                for other in rivals
            ]
            cells = [way.name, f"{passes.mean():.2f}", f"{100 * right[way.name].mean():.1f} %{each}", *differences]
            parts.append(f"| {' | '.join(cells)} |")
        base = base if model else right
        things = np.mean([tries[0]["things"] for seed in first for tries in seed.values()])
        parts += ["", f"Things in an image, where two are asked for: {things:.2f}", "", *kept(runs), ""]
    return "\n".join(parts)


def kept(runs: dict[str, list[dict[str, list[Line]]]]) -> list[str]:
    """How much of the first image a second one of the same prompt keeps, and what becomes of one with colours swapped.

    Swapped are images that have all the shapes asked for, but not in their colours.
    """
    head = ["second image", "n", "unchanged pixels", "overlap of the shapes", "swapped", "all correct", "a shape lost"]
    rows = [f"| {' | '.join(head)} |", "|---|---|---|---|---|---|---|"]
    for name, how in (("draws", "draw"), ("modulation", "mend"), ("regional", "mend")):
        pairs = [tries[:2] for seed in runs.get(name, []) for tries in seed.values() if len(tries) > 1]
        chosen = [(first, second) for first, second in pairs if second["how"] == how]
        if chosen:
            unchanged, overlap = (100 * np.mean([one[key] for _, one in chosen]) for key in ("unchanged", "overlap"))
            title = "a fresh draw" if name == "draws" else f"mended by {name}"
            swapped = [second for first, second in chosen if first["presence"] and not first["binding"]]
            right, there = (100 * np.mean([one[key] for one in swapped]) for key in ("all_correct", "presence"))
            cells = [title, str(len(chosen)), f"{unchanged:.0f} %", f"{overlap:.0f} %"]
            cells += [str(len(swapped)), f"{right:.0f} %", f"{100 - there:.0f} %"]
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def plot(folder: Path, out: Path) -> None:
    """The figure of the base model: all correct over passes, a line for each way to spend them."""
    from matplotlib.figure import Figure

    runs = lines_of(folder, suffixes(folder)[""])
    most = min(len(tries) for seed in runs["draws"] for tries in seed.values())
    lines = {
        "best of N draws": ("draws", False, "#999999"),
        "draw and verify": ("draws", True, "#0072b2"),
        "loop, modulation (the paper's)": ("modulation", True, "#e69f00"),
        "loop, regional": ("regional", True, "#009e73"),
    }
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for label, (file, verified, colour) in lines.items():
        if file not in runs:
            continue
        points = [spent(Way(label, file, tries, verified), runs[file]) for tries in range(1, most + 1)]
        x, y = np.array([[passes.mean(), 100 * right.mean()] for passes, right in points]).T
        draw = np.random.default_rng(0).integers(len(points[0][1][0]), size=(2000, len(points[0][1][0])))
        low, high = 100 * np.quantile([right.mean(0)[draw].mean(1) for _, right in points], [0.025, 0.975], axis=1)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, y, "o-", color=colour, label=label, markersize=4)
    axes.set_xlim(0.9, 4.2)
    axes.set_xlabel("passes of the generator per image, on average")
    axes.set_ylabel("all correct, %")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(out, dpi=110)


def composition(first: Image.Image, second: Image.Image) -> dict[str, float]:
    """The share of pixels that stay as they were, and the overlap (IoU) of what is not ground."""
    one, two = (np.asarray(image.convert("RGB"), np.int16) for image in (first, second))
    shapes = [np.abs(a - np.median(a[0], axis=0)).max(-1) > SHAPE for a in (one, two)]
    union = (shapes[0] | shapes[1]).sum()
    return {
        "unchanged": float((np.abs(one - two).max(-1) <= SAME).mean()),
        "overlap": float((shapes[0] & shapes[1]).sum() / union) if union else 1.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest="command", required=True)
    trying = sub.add_parser("try", help="make and judge the tries of every prompt")
    trying.add_argument("name", choices=["draws", "regional", "modulation"])
    trying.add_argument("--seed", type=int, default=42)
    trying.add_argument("--tries", type=int, default=8)
    trying.add_argument("--preset", default="tiny")
    trying.add_argument("--model", type=Path, help="what realign train made")
    trying.add_argument("--guidance", type=float)
    trying.add_argument("--folder", type=Path, default=FOLDER)
    showing = sub.add_parser("table", help="the tables of what was made")
    showing.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    drawing = sub.add_parser("plot", help="the figure of what was made")
    drawing.add_argument("out", type=Path)
    drawing.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    given = parser.parse_args()
    if given.command == "table":
        sys.stdout.write(table(given.folder))
        return
    if given.command == "plot":
        plot(given.folder, given.out)
        return
    parts = [f"{given.name}-seed-{given.seed}", *([given.model.name] if given.model else [])]
    parts += [] if given.guidance is None else [f"guidance-{given.guidance:g}"]
    out = given.folder / f"{'-'.join(parts)}.jsonl"
    make(given.name, out, given.seed, given.tries, given.preset, given.model, given.guidance)


if __name__ == "__main__":
    main()
