"""`realign run` with two workers against one, whole commands in turn: `python benchmarks/workers.py [N] [PAIRS]`.

Each run makes coarse and final images of the first N (32) built-in prompts with the embedded models in a fresh folder.
Its time contains the start of Python and the loading of the models, which every worker does for itself. Threads are one
per process, so that one worker has one core and two have two. Prints the ratio of records per second for each pair.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from realign_cli.tinyworld.scenes import held_out_prompts


def seconds(prompts: Path, out: Path, workers: int) -> float:
    command = [sys.executable, "-m", "realign_cli", "run", "--prompts", prompts, "--out", out, "-q"]
    began = time.perf_counter()
    subprocess.run([*command, "--workers", str(workers)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.perf_counter() - began


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        prompts = Path(name) / "prompts.txt"
        prompts.write_text("\n".join(held_out_prompts()[:count]) + "\n")
        for i in range(pairs):
            order = (1, 2) if i % 2 else (2, 1)  # so that neither has the quieter half of the time
            took = {workers: seconds(prompts, Path(name) / f"{i}-{workers}", workers) for workers in order}
            ratios.append(took[1] / took[2])
            sys.stdout.write(f"pair {i + 1}: one worker {took[1]:.1f} s, two {took[2]:.1f} s, ratio {ratios[-1]:.2f}\n")
            sys.stdout.flush()
    sys.stdout.write(
        f"records per second, two workers / one, n = {count} prompts: median {statistics.median(ratios):.2f}, "
        f"range {min(ratios):.2f} to {max(ratios):.2f}, {pairs} pairs\n"
    )


if __name__ == "__main__":
    main()
