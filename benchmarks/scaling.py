"""Time and memory of whole commands as the number of records grows.

    python benchmarks/scaling.py [--quick]

Each command reads n records of the embedded world and writes a folder. Linear means that the records beyond a number
cost what those up to it did: the start of the command, which is paid once, cancels out.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from PIL import Image
from ratios import PAIRS, Row, Used, main, realign

from realign_cli.tinyworld import scenes

PICTURES = 10  # files that the records share
COMMANDS = {"score": (10, 1000, 10_000), "tag": (10, 100, 1000)}  # numbers of records


def write(folder: Path, count: int) -> None:
    folder.mkdir()
    drawn = [scene for _, scene in zip(range(PICTURES), scenes.scenes(1), strict=False)]
    for i, scene in enumerate(drawn):
        Image.fromarray(scenes.render(scene)).save(folder / f"{i}.png")
    lines = []
    for i in range(count):
        scene = drawn[i % PICTURES]
        tags = [{"label": thing.shape, "confidence": 0.9} for thing in scene.things]
        record = {"file_name": f"{i % PICTURES}.png", "text": scene.caption, "id": str(i), "tags": tags}
        lines.append(json.dumps(record) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))


def marginal(runs: dict[int, Used]) -> float:
    """Seconds per record from the middle number on / seconds per record up to it."""
    small, middle, large = sorted(runs)
    late = (runs[large].seconds - runs[middle].seconds) / (large - middle)
    return late / ((runs[middle].seconds - runs[small].seconds) / (middle - small))


def measure(quick: bool) -> list[Row]:
    commands = {"score": (2, 4, 8)} if quick else COMMANDS
    found = []
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        for command, counts in commands.items():
            for count in counts:
                write(here / f"{command}-{count}", count)
            rounds = []
            for i in range(1 if quick else PAIRS):
                rounds.append(
                    {
                        count: realign(
                            command, "--in", here / f"{command}-{count}", "--out", here / f"{command}-{count}-{i}", "-q"
                        )
                        for count in counts
                    }
                )
                for count in counts:
                    written = (here / f"{command}-{count}-{i}" / "metadata.jsonl").read_text().splitlines()
                    assert len(written) == count
            small, middle, large = counts
            found += [
                Row(
                    f"`realign {command}`: time per record, {middle:,} to {large:,} / {small:,} to {middle:,}",
                    [marginal(runs) for runs in rounds],
                    f"`realign {command} --in IN --out OUT`",
                    "1",
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
