"""Which metric tells the truth? The rank correlation of each with the oracle, image by image.

    python benchmarks/metric_truth.py runs/coarse_stage/base-eval [EVAL ...]

Each EVAL is the --out of a `realign eval --metrics clip,negclip,blip,oracle` on the embedded world. Spearman's rho with
95 % percentile bootstraps over the images; for a verdict of 0 or 1 beside the rho the chance that a right image scores
above a wrong one (the area under the ROC curve), of which 50 % is a coin.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import mannwhitneyu, spearmanr

if TYPE_CHECKING:
    from numpy.typing import NDArray

METRICS = ("clip", "negclip", "blip_itc", "blip_itm")
VERDICTS = ("presence", "binding", "all_correct")
RESAMPLES = 1000


def rho(metric: NDArray[np.float64], verdict: NDArray[np.float64]) -> str:
    """Spearman's rho with its interval, and the area under the curve."""
    draw = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        chosen = draw.integers(len(metric), size=len(metric))
        if len(set(verdict[chosen])) == 2:
            resampled.append(spearmanr(metric[chosen], verdict[chosen]).statistic)
    low, high = np.quantile(resampled, [0.025, 0.975])
    right, wrong = metric[verdict == 1], metric[verdict == 0]
    area = mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))
    return f"{spearmanr(metric, verdict).statistic:.2f} ({low:.2f} to {high:.2f}), {area:.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evals", nargs="+", type=Path, metavar="EVAL")
    for folder in parser.parse_args().evals:
        rows = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
        columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in (*METRICS, *VERDICTS)}
        lines = ["", f"{folder.name}, n = {len(rows)}: rho, area", ""]
        lines += [f"| metric | {' | '.join(VERDICTS)} |", "|---|---|---|---|"]
        lines += [f"| {m} | {' | '.join(rho(columns[m], columns[v]) for v in VERDICTS)} |" for m in METRICS]
        sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
