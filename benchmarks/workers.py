"""Two workers of `realign run` against one, in turn: `OMP_NUM_THREADS=1 python benchmarks/workers.py [N] [PAIRS]`.

Workers make coarse and final images of the first N (32) built-in prompts with the embedded models, in a fresh folder.
They are forked from a process that has loaded the models, so that what is compared is the work of a long run and not
its start. Prints for each of PAIRS (5) pairs the ratio of records per second, and that of the processor time spent,
which other programs on the computer disturb less: two workers at best give 2 divided by it.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from realign_cli.commands import _map
from realign_cli.commands._pipeline import coarse_to_final
from realign_cli.commands.options import RunOptions
from realign_cli.data.prompts import read_prompts
from realign_cli.tinyworld.scenes import held_out_prompts

if TYPE_CHECKING:
    from realign_cli.registry import Models

SEED = 42


def make(models: Models, prompts: Path, out: Path, shard: str) -> None:
    entries = list(read_prompts(prompts, SEED))
    coarse_to_final(RunOptions(quiet=True, shard=shard), out, models, entries, seed=SEED, keep="final")


def measure(models: Models, prompts: Path, out: Path, workers: int) -> tuple[float, float]:
    """Seconds that passed, and seconds of processor time of all workers."""
    began, processor, started = time.perf_counter(), 0.0, []
    for index in range(1, workers + 1):
        if not (child := os.fork()):
            make(models, prompts, out, f"{index}/{workers}")
            os._exit(0)
        started.append(child)
    for child in started:
        _, status, used = os.wait4(child, 0)
        assert status == 0
        processor += used.ru_utime + used.ru_stime
    return time.perf_counter() - began, processor


def show(name: str, ratios: list[float]) -> None:
    median = statistics.median(ratios)
    sys.stdout.write(f"{name}: median {median:.2f}, range {min(ratios):.2f} to {max(ratios):.2f}, n = {len(ratios)}\n")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    models = _map.load(RunOptions(preset="tiny", device="cpu", quiet=True))
    speed, spent = [], []
    with tempfile.TemporaryDirectory() as name:
        prompts, one = Path(name) / "prompts.txt", Path(name) / "one.txt"
        prompts.write_text("\n".join(held_out_prompts()[:count]) + "\n")
        one.write_text(held_out_prompts()[0] + "\n")
        make(models, one, Path(name) / "loading", "1/1")
        for i in range(pairs):
            order = (1, 2) if i % 2 else (2, 1)  # so that neither always has the quieter time
            took = {workers: measure(models, prompts, Path(name) / f"{i}-{workers}", workers) for workers in order}
            speed.append(took[1][0] / took[2][0])
            spent.append(took[2][1] / took[1][1])
            sys.stdout.write(f"pair {i + 1}: records per second {speed[-1]:.2f}, processor time {spent[-1]:.2f}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{count} prompts, two workers / one\n")
    show("records per second", speed)
    show("processor time", spent)


if __name__ == "__main__":
    main()
