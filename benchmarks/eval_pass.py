"""One pass of `realign eval` over all metrics, against one run a metric, and a second run after adding 2 % of images.

    python benchmarks/eval_pass.py [N]

The folder holds N (300) scenes of the embedded world as noisy 512 x 512 PNGs, so that reading an image costs what it
does for real ones, while the models are the small embedded ones. Every run is a process of its own with an empty cache,
but for the second run, which finds what the first remembered. All times contain the start of Python and the loading of
the models.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from realign_cli.tinyworld import scenes

METRICS, ROUNDS = ("fid", "clip", "negclip", "blip"), 5


def draw(folder: Path, count: int, extra: int = 0) -> None:
    """`count` scenes; `extra` more are those of another stream."""
    folder.mkdir()
    lines = []
    rng = np.random.default_rng(0)
    streams = scenes.scenes(1, held_out=True), scenes.scenes(2, held_out=True)
    for i in range(count + extra):
        scene = next(streams[i >= count])
        image = Image.fromarray(scenes.render(scene)).resize((512, 512), Image.Resampling.BICUBIC)
        noisy = np.asarray(image, np.int16) + rng.integers(-4, 5, (512, 512, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": scene.caption, "id": str(i)}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))


def seconds(folder: Path, metrics: tuple[str, ...], cache: Path) -> float:
    command = [sys.executable, "-m", "realign_cli", "eval", "--in", folder, "--metrics", ",".join(metrics)]
    command += ["--reference", folder.parent / "reference", "--cache", cache, "--json"]
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def show(name: str, ratios: list[float]) -> None:
    median = statistics.median(ratios)
    sys.stdout.write(f"{name}: median {median:.2f}, range {min(ratios):.2f} to {max(ratios):.2f}, n = {len(ratios)}\n")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        draw(here / "reference", 2)
        draw(here / "first", count)
        draw(here / "grown", count, max(1, count // 50))
        apart, again = [], []
        for i in range(ROUNDS):
            single = sum(seconds(here / "first", (metric,), here / f"{metric}-{i}") for metric in METRICS)
            together = seconds(here / "first", METRICS, here / f"all-{i}")
            second = seconds(here / "grown", METRICS, here / f"all-{i}")
            apart.append(single / together)
            again.append(together / second)
    sys.stdout.write(f"{count} images of 512 x 512, {ROUNDS} interleaved rounds\n")
    show("four runs of one metric / one run of four", apart)
    show("first run / second run with 2 % more images", again)


if __name__ == "__main__":
    main()
