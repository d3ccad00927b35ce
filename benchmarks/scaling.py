"""Time and memory of whole commands as the number of records grows.

    python benchmarks/scaling.py [--quick]

Each command reads n records of the embedded world and writes a folder. Linear means that the records beyond a number
cost what those up to it did: the start of the command, which is paid once, cancels out.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from ratios import PAIRS, Row, Used, main, realign

from realign_cli.tinyworld import scenes

COUNTS = {  # of records; a few for the start, and enough for times to stand out of it
    "score": (10, 1000, 10_000),
    "tag": (10, 2000, 10_000),
    "caption-reward": (10, 1000, 5000),
    "segment": (10, 500, 2500),
    "eval": (10, 1000, 5000),
}


def write(folder: Path, count: int) -> None:
    folder.mkdir()
    lines = []
    for i, scene in zip(range(count), scenes.scenes(1), strict=False):
        Image.fromarray(scenes.render(scene)).save(folder / f"{i}.png")
        tags = [{"label": thing.shape, "confidence": 0.9} for thing in scene.things]
        objects = [{"label": thing.shape, "phrase": str(thing.shape), "likelihood": 2.0} for thing in scene.things]
        record = {"file_name": f"{i}.png", "text": scene.caption, "id": str(i), "tags": tags, "objects": objects}
        lines.append(json.dumps(record) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))


def run(command: str, given: Path, out: Path) -> Used:
    """What the command used for the records in `given`; every one must come out."""
    more = ("--metrics", "clip,negclip,blip", "--cache", out / "cache") if command == "eval" else ()
    used = realign(command, "--in", given, "--out", out, "-q", *more)
    read, written = given / "metadata.jsonl", out / ("scores.jsonl" if command == "eval" else "metadata.jsonl")
    assert len(read.read_text().splitlines()) == len(written.read_text().splitlines())
    shutil.rmtree(out)
    return used


def marginal(runs: dict[int, Used]) -> float:
    """Seconds per record from the middle number on / seconds per record up to it."""
    small, middle, large = sorted(runs)
    late = (runs[large].seconds - runs[middle].seconds) / (large - middle)
    return late / ((runs[middle].seconds - runs[small].seconds) / (middle - small))


def measure(quick: bool) -> list[Row]:
    found = []
    for command, counts in ({"score": (2, 4, 8)} if quick else COUNTS).items():
        with tempfile.TemporaryDirectory() as name:
            folders = {count: Path(name, str(count)) for count in counts}
            for count, folder in folders.items():
                write(folder, count)
            rounds = [
                {count: run(command, folder, Path(name, "out")) for count, folder in folders.items()}
                for _ in range(1 if quick else PAIRS)
            ]
        small, middle, large = counts
        found += [
            Row(
                f"`realign {command}`: time per record, {middle:,} to {large:,} / {small:,} to {middle:,}",
                [marginal(runs) for runs in rounds],
                limit="1",
            ),
            Row(
                f"`realign {command}`: peak memory at {large:,} / at {small:,} records",
                [runs[large].megabytes / runs[small].megabytes for runs in rounds],
                limit="1",
            ),
        ]
    return found


if __name__ == "__main__":
    main(measure)
