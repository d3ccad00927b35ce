"""One pass of `realign eval` over all metrics, against one run a metric.

    python benchmarks/eval_pass.py [--quick]

The folder holds 200 scenes of the embedded world as noisy 512 x 512 PNGs, so that reading an image costs what it
does for real ones, while the models are the small embedded ones. Every run is a process of its own with an empty cache.
These are times of the clock, for the images are decoded in other processes, and contain the start of Python and the
loading of the models.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from ratios import PAIRS, Row, main, realign

from realign_cli.tinyworld import scenes

COUNT, METRICS = 200, ("fid", "clip", "negclip", "blip")


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
    began = time.perf_counter()
    reference = ("--reference", folder.parent / "reference") if "fid" in metrics else ()
    realign("eval", "--in", folder, "--metrics", ",".join(metrics), *reference, "--cache", cache, "--json")
    return time.perf_counter() - began


def measure(quick: bool) -> list[Row]:
    count, metrics = (2, ("oracle",)) if quick else (COUNT, METRICS)  # the oracle is no model
    apart = []
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        draw(here / "reference", 2)
        draw(here / "images", count)
        for i in range(1 if quick else PAIRS):
            single = sum(seconds(here / "images", (metric,), here / f"{metric}-{i}") for metric in metrics)
            apart.append(single / seconds(here / "images", metrics, here / f"all-{i}"))
    command = f"`realign eval --metrics {','.join(metrics)}`, {count} images of 512 x 512"
    return [Row("four runs of one metric / one run of four", apart, command)]


if __name__ == "__main__":
    main(measure)
