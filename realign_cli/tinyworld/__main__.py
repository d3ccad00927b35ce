"""Reference images of the embedded world for fid: `python -m realign_cli.tinyworld render --out DIR` draws scenes with
true captions, and `python -m realign_cli.tinyworld reference` puts the statistics of such scenes into the package."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from realign_cli.equations.frechet import Moments, moments
from realign_cli.models.features import WIDTH, SceneFeatures
from realign_cli.plumbing import atomic
from realign_cli.plumbing.folder import RunFolder, image_name
from realign_cli.plumbing.stats import write_stats
from realign_cli.records import Record
from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.train.publish import WEIGHTS, publish

_SCENES, _SEED, _BATCH = 5000, 1, 50  # of the packaged statistics


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m realign_cli.tinyworld", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("render", help="scenes as a record folder")
    drawing.add_argument("-n", type=int, default=500)
    drawing.add_argument("--seed", type=int, default=1)
    drawing.add_argument("--out", type=Path, required=True)
    commands.add_parser("reference", help=f"the packaged statistics of {_SCENES:,} scenes")
    arguments = parser.parse_args()
    if arguments.command == "reference":
        package()
    else:
        render(arguments.out, arguments.n, arguments.seed)


def render(out: Path, n: int, seed: int) -> None:
    """Draw n held-out two-object scenes into the folder `out`."""
    folder = RunFolder(out, {"command": "render", "n": n, "seed": seed})
    ids = [f"{i:06d}" for i in range(n)]
    for record_id, scene in zip(ids, _drawn(seed), strict=False):
        name = image_name(record_id)
        atomic.write_png(out / name, Image.fromarray(scenes.render(scene)))
        folder.add(Record(file_name=name, text=scene.caption, id=record_id, seed=seed))
    folder.complete(ids)


def package() -> None:
    """Put the statistics of the features of the scenes that `render -n 5000` draws into the package."""
    extractor = SceneFeatures(WEIGHTS / "features", device="cpu")
    found = statistics(extractor, _SCENES)
    card = {
        "statistics": f"mean and covariance, n = {_SCENES:,}, of: {extractor.name}",
        "weights of the features": f"fingerprint {extractor.fingerprint}",
        "images": f"rendered scenes of two things in combinations held out from training, seed {_SEED}",
    }
    publish(
        "reference",
        lambda folder: write_stats(folder / "stats.npz", found.mean, found.covariance, _SCENES, extractor.name),
        card,
        "tinyworld",
    )


def statistics(extractor: SceneFeatures, n: int) -> Moments:
    """Moments of the features of n scenes."""
    features = np.empty((n, WIDTH), np.float32)
    drawn = _drawn(_SEED)
    for start in range(0, n, _BATCH):
        images = [Image.fromarray(scenes.render(next(drawn))) for _ in range(start, min(start + _BATCH, n))]
        features[start : start + len(images)] = extractor.features(images)
    return moments(features)


def _drawn(seed: int) -> Iterator[scenes.Scene]:
    """Held-out scenes of two things, without end."""
    return scenes.scenes(seed, held_out=True, count=2)


if __name__ == "__main__":
    main()
