"""How well does the caption reward verify an image? What high rewards are worth, by the oracle, image by image.

    python benchmarks/verifier.py runs/captioned [CAPTIONED ...]

Each CAPTIONED is the --out of a `realign caption-reward` on images of the embedded world. A reward of at least 0.95
accepts an image. Shares are printed with their n and 95 % intervals by Wilson, and Spearman's rho of the reward with
the verdict that all is correct. Wrong images are split by the first that applies: something is malformed, a kind that
was asked for is not there, a pair is not, a pair is there more than once, there is something else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from scipy.stats import binomtest, spearmanr

from realign_cli.tinyworld import oracle

ACCEPTED = 0.95
RIGHT = "all correct"
WRONG = ("malformed", "a kind missing", "bound wrongly", "more alike", "something else")


def fault(image: Image.Image, prompt: str) -> str:
    """`RIGHT`, or which of `WRONG` an image is."""
    seen, asked = oracle.read(image), oracle.parse(prompt)
    verdict = oracle.verdict(seen, asked)
    if verdict["all_correct"]:
        return RIGHT
    if any(thing.shape is None for thing in seen):
        return WRONG[0]
    if not verdict["presence"]:
        return WRONG[1]
    if not verdict["binding"]:
        return WRONG[2]
    counts = Counter((thing.colour, thing.shape) for thing in seen)
    return WRONG[3] if any(counts[pair] > 1 for pair in asked.pairs) else WRONG[4]


def share(hits: Sequence[bool]) -> str:
    """How many of n, with the interval."""
    if not hits:
        return "none (n = 0)"
    low, high = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return f"{sum(hits) / len(hits):.0%} ({low:.0%} to {high:.0%}, n = {len(hits)})"


def rows(folder: Path) -> list[tuple[float, str]]:
    """Reward of each image that was captioned, and what the oracle finds."""
    records = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        (record["caption"]["reward"], fault(Image.open(folder / record["file_name"]), record["text"]))
        for record in records
        if record.get("caption")
    ]


def table(judged: Sequence[tuple[float, str]]) -> list[str]:
    """The lines of the table of one folder."""
    rewards, right = [reward for reward, _ in judged], [found == RIGHT for _, found in judged]
    lines = [
        "| what | share |",
        "|---|---|",
        f"| {RIGHT} | {share(right)} |",
        f"| {RIGHT}, of those accepted | {share([found == RIGHT for reward, found in judged if reward >= ACCEPTED])} |",
    ]
    for kind in (RIGHT, *WRONG):
        lines.append(f"| accepted, of: {kind} | {share([r >= ACCEPTED for r, found in judged if found == kind])} |")
    rho = spearmanr(rewards, right).statistic
    return [*lines, f"| Spearman's rho of the reward with {RIGHT} | {rho:.2f} (n = {len(judged)}) |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captioned", nargs="+", type=Path, metavar="CAPTIONED")
    for folder in parser.parse_args().captioned:
        sys.stdout.write("\n".join(["", f"{folder.name}", "", *table(rows(folder))]) + "\n")


if __name__ == "__main__":
    main()
