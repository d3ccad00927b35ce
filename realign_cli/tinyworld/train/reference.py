"""The packaged reference of `fid`: statistics of features of rendered scenes. Train `features` first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from realign_cli.equations.frechet import Moments, moments
from realign_cli.evaluation.fid_stats import write_stats
from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scene_net import WIDTH, SceneFeatures
from realign_cli.tinyworld.train.publish import WEIGHTS, publish

_SCENES, _SEED, _BATCH = 5000, 1, 50


def main(work: Path) -> None:
    extractor = SceneFeatures(WEIGHTS / "features", device="cpu")
    found = statistics(extractor, _SCENES)
    folder = work / "model"
    folder.mkdir(parents=True, exist_ok=True)
    write_stats(folder / "stats.npz", found.mean, found.covariance, _SCENES, extractor.name)
    card = {
        "statistics": f"mean and covariance, n = {_SCENES:,}, of: {extractor.name}",
        "weights of the features": f"fingerprint {extractor.fingerprint}",
        "images": f"rendered scenes of two things in combinations held out from training, seed {_SEED}",
    }
    publish("reference", folder, card)


def statistics(extractor: SceneFeatures, count: int) -> Moments:
    """Moments of the features of `count` scenes, which `python -m realign_cli.tinyworld render` draws too."""
    features = np.empty((count, WIDTH), np.float32)
    drawn = scenes.scenes(_SEED, held_out=True, count=2)
    for start in range(0, count, _BATCH):
        images = [Image.fromarray(scenes.render(next(drawn))) for _ in range(start, min(start + _BATCH, count))]
        features[start : start + len(images)] = extractor.features(images)
    return moments(features)
