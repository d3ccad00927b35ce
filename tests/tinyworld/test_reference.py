"""The packaged reference of fid is what its command makes: of the packaged features, the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from realign_cli.evaluation.fid_stats import read_stats, write_stats
from realign_cli.registry import packaged
from realign_cli.tinyworld.scene_net import SceneFeatures
from realign_cli.tinyworld.train.publish import WEIGHTS
from realign_cli.tinyworld.train.reference import statistics

N = 200


@pytest.fixture(scope="module")
def extractor() -> SceneFeatures:
    return SceneFeatures(WEIGHTS / "features", device="cpu")


def test_it_is_of_the_packaged_features(extractor: SceneFeatures) -> None:
    folder = packaged("reference")  # as its SHA-256 sums say
    known = read_stats(folder / "stats.npz")
    assert (known.n, known.features) == (5000, extractor.name)
    card = (folder / "README.md").read_text()
    assert str(extractor.fingerprint) in card and "`python -m realign_cli.tinyworld.train reference`" in card
    drawn = statistics(extractor, N)
    error = np.sqrt(known.covariance.diagonal() / N)
    assert (np.abs(drawn.mean - known.mean) <= 5 * error + 1e-6).all()


def test_the_same_scenes_give_the_same_bytes(extractor: SceneFeatures, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        drawn = statistics(extractor, N)
        write_stats(tmp_path / name, drawn.mean, drawn.covariance, N, extractor.name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
