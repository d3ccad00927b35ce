"""The features of the tiny world's Frechet distance."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from realign_cli.equations.frechet import frechet_distance
from realign_cli.errors import RealignError
from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scene_net import WIDTH, SceneFeatures
from realign_cli.tinyworld.train.publish import WEIGHTS


@pytest.fixture(scope="module")
def extractor() -> SceneFeatures:
    return SceneFeatures(WEIGHTS / "features", device="cpu")


def pictures(seed: int, n: int, count: int | None = None) -> list[Image.Image]:
    stream = scenes.scenes(seed, held_out=True, count=count)
    return [Image.fromarray(scenes.render(next(stream))) for _ in range(n)]


def test_features_are_finite_rows(extractor):
    features = extractor.features(pictures(1, 3))
    assert features.shape == (3, WIDTH)
    assert features.dtype == np.float64
    assert np.isfinite(features).all()
    assert isinstance(extractor.name, str)


def test_features_do_not_depend_on_the_batch(extractor):
    images = [image.resize(size) for image, size in zip(pictures(2, 3), [(64, 64), (96, 80), (50, 64)], strict=True)]
    alone = np.concatenate([extractor.features([image]) for image in images])
    assert np.allclose(extractor.features(images), alone, atol=1e-4)


def test_distance_grows_as_pictures_get_worse(extractor):
    n = 600  # two samples of the same scenes are apart only because they are finite: about 1 / n
    real, drawn = extractor.features(pictures(3, n)), pictures(4, n)

    def distance(images: list[Image.Image]) -> float:
        return frechet_distance(real, extractor.features(images))

    clean = distance(drawn)
    soft, softer = (distance([image.filter(ImageFilter.GaussianBlur(sigma)) for image in drawn]) for sigma in (2, 5))
    assert clean < 0.2 * soft
    assert soft < softer
    assert clean < 0.2 * distance(pictures(4, n, count=3))  # the content counts as well


def test_nothing_in_nothing_out(extractor):
    assert extractor.features([]).shape == (0, WIDTH)


def test_missing_weights_are_one_clear_line(tmp_path):
    with pytest.raises(RealignError, match="not found"):
        SceneFeatures(tmp_path, device="cpu")
