"""`python -m realign_cli.tinyworld render --out DIR` draws scenes with true captions, as reference images for fid."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from realign_cli.plumbing import atomic
from realign_cli.plumbing.folder import RunFolder, image_name
from realign_cli.records import Record
from realign_cli.tinyworld import scenes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m realign_cli.tinyworld", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("render", help="scenes as a record folder")
    drawing.add_argument("-n", type=int, default=500)
    drawing.add_argument("--seed", type=int, default=1)
    drawing.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    render(arguments.out, arguments.n, arguments.seed)


def render(out: Path, n: int, seed: int) -> None:
    """Draw n held-out two-object scenes into the folder `out`."""
    stream = scenes.scenes(seed, held_out=True, count=2)
    ids = [f"{i:06d}" for i in range(n)]
    with RunFolder.open(out, {"command": "render", "n": n, "seed": seed}) as folder:
        folder.begin(ids)
        for record_id in ids:
            scene = next(stream)
            name = image_name(record_id)
            atomic.write_png(out / name, Image.fromarray(scenes.render(scene)))
            folder.add(Record(file_name=name, text=scene.caption, id=record_id, seed=seed))
        folder.complete(ids)


if __name__ == "__main__":
    main()
