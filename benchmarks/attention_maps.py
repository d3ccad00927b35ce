"""Does refining bring the attention of words to where their things are, and does that go with a mended image?

    python benchmarks/attention_maps.py [--count 520] [--method modulation] [--seed 42] [--folder runs/attention_maps]

Held-out prompts of the embedded world are generated and refined with `--maps`, by commands that go on where they were
stopped; the oracle judges both images. A share is how much of the attention map of a phrase, or of its attributes, lies
in the mask that the refinement went by; before is the coarse pass, after the refined one; an even map has the mask's
share of the image. Each image counts once, by the mean over its phrases. An image is mended if it was not all correct
and is now. Intervals are 95 % bootstraps over prompts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from realign_cli.data.images import image_path
from realign_cli.data.records import read_records
from realign_cli.equations.bootstrap import bootstrap_mean
from realign_cli.tinyworld.oracle import Oracle
from realign_cli.tinyworld.scenes import held_out_prompts

if TYPE_CHECKING:
    from realign_cli.records import Record

KINDS = ("phrases", "attributes")
MEASURES: Mapping[str, Callable[[float, float, float], float]] = {  # of shares before and after, and the mask's area
    "after": lambda before, after, area: after,
    "after, of an even map's": lambda before, after, area: after / area,  # which a larger mask does not raise
    "gain": lambda before, after, area: after - before,
}
RESAMPLES = 10_000


@dataclass(frozen=True)
class Case:
    """An image that was refined: its shares (before, after) of each of KINDS, the mask's area, and two verdicts."""

    shares: Mapping[str, tuple[float, float]]
    area: float
    right_before: bool
    right_after: bool


def make(folder: Path, count: int, method: str, seed: int) -> tuple[Path, Path]:
    """The folders of coarse and refined images, which the commands fill."""
    coarse, final = folder / f"coarse-{seed}", folder / f"{method}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(held_out_prompts()[:count]) + "\n", encoding="utf-8")
    draw = ["generate", "--prompts", str(prompts), "--seed", str(seed), "--out", str(coarse)]
    mend = ["refine", "--in", str(coarse), "--method", method, "--out", str(final)]
    for words in (draw, mend):
        command = [sys.executable, "-m", "realign_cli", *words, "--maps"]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ | {"REALIGN_PRESET": "tiny"})
        if done.returncode not in (0, 3):  # 3: some records failed
            sys.exit(done.returncode)
    return coarse, final


def case(record: Record, right_before: bool, right_after: bool) -> Case | None:
    """What a record says of its maps; None where it was not drawn again or has no attribute."""
    words = {
        "phrases": record.maps or [],
        "attributes": [one for phrase in record.maps or [] for one in phrase.attributes],
    }
    if not all(words.values()) or any(one.before is None for own in words.values() for one in own):
        return None
    shares = {kind: (fmean(one.before for one in own), fmean(one.after for one in own)) for kind, own in words.items()}
    return Case(shares, fmean(phrase.area for phrase in record.maps), right_before, right_after)


def read(coarse: Path, final: Path) -> list[Case]:
    """The cases of two folders of the same prompts."""
    judged = []
    for folder in (coarse, final):
        entries = {entry.record.id: entry for entry in read_records(str(folder)) if entry.record.file_name}
        images = [Image.open(image_path(entry.record, entry.base)).convert("RGB") for entry in entries.values()]
        correct = Oracle().measure(images, [entry.record.text for entry in entries.values()])["all_correct"]
        judged.append({i: (entry.record, bool(one)) for (i, entry), one in zip(entries.items(), correct, strict=True)})
    before, after = judged
    found = [case(record, before[i][1], right) for i, (record, right) in after.items() if i in before]
    return [one for one in found if one]


def interval(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return "none"
    mean = bootstrap_mean(np.array(values))
    return f"{100 * mean.mean:{sign}.1f} ({100 * mean.low:{sign}.1f} to {100 * mean.high:{sign}.1f})"


def difference(one: Sequence[float], other: Sequence[float]) -> str:
    """The difference of two means, of which each group is drawn again by itself."""
    if not one or not other:
        return "none"
    draw = np.random.default_rng(0)
    means = [draw.choice(np.array(values), (RESAMPLES, len(values))).mean(1) for values in (one, other)]
    low, high = 100 * np.quantile(means[0] - means[1], [0.025, 0.975])
    return f"{100 * (fmean(one) - fmean(other)):+.1f} ({low:+.1f} to {high:+.1f})"


def table(cases: Sequence[Case]) -> str:
    """Shares in per cent: before and after of all, then the measures of what was mended and of what was not."""
    mended = [one for one in cases if not one.right_before and one.right_after]
    stayed = [one for one in cases if not one.right_before and not one.right_after]
    rows = [
        f"n = {len(cases)} refined images; masks are {interval([one.area for one in cases])} % of them",
        "",
        "| share inside the mask, % | before | after | gain |",
        "|---|---|---|---|",
    ]
    for kind in KINDS:
        pairs = [one.shares[kind] for one in cases]
        before, after = ([pair[i] for pair in pairs] for i in (0, 1))
        gains = [b - a for a, b in pairs]
        rows.append(f"| {kind} | {interval(before)} | {interval(after)} | {interval(gains, '+')} |")
    rows += [
        "",
        f"| of images that were wrong | mended (n = {len(mended)}) | not mended (n = {len(stayed)}) | difference |",
        "|---|---|---|---|",
    ]
    for kind in KINDS:
        for name, of in MEASURES.items():
            sides = [[of(*one.shares[kind], one.area) for one in group] for group in (mended, stayed)]
            rows.append(f"| {kind}, {name} | {interval(sides[0])} | {interval(sides[1])} | {difference(*sides)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=520)
    parser.add_argument("--method", choices=["modulation", "regional", "dense"], default="modulation")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--folder", type=Path, default=Path("runs/attention_maps"))
    given = parser.parse_args()
    sys.stdout.write(table(read(*make(given.folder, given.count, given.method, given.seed))) + "\n")


if __name__ == "__main__":
    main()
