"""Inception features are pytorch-fid's, on random weights, and the distance is the one that it computes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_fid import fid_score
from pytorch_fid import inception as published
from torch import nn

from realign_cli.equations.frechet import frechet_distance
from realign_cli.errors import RealignError, UsageError
from realign_cli.models.vision.inception import InceptionFeatures, fid_inception

COUNT = 8


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights, scaled so that features neither vanish nor explode, where torch's hub would put the real ones."""
    torch.manual_seed(0)
    net = fid_inception()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    path = tmp_path_factory.mktemp("hub") / "hub" / "checkpoints" / published.FID_WEIGHTS_URL.rsplit("/", 1)[-1]
    path.parent.mkdir(parents=True)
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of images with different statistics, of one size because pytorch-fid reads no other."""
    rng = np.random.default_rng(0)
    made = []
    for name, cells, brightest in (("a", 6, 255), ("b", 9, 200)):
        folder = tmp_path_factory.mktemp(name)
        for i in range(COUNT):
            pixels = rng.integers(0, brightest, (cells, cells, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((96, 80), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        made.append(folder)
    return made


def pictures(folder):
    return [Image.open(path) for path in sorted(folder.iterdir())]


def test_distance_is_pytorch_fids(weights, folders, monkeypatch):
    """Its network, images and distance. Both sets span few dimensions, in which the distance is the same and quick."""
    monkeypatch.setenv("TORCH_HOME", str(weights.parents[2]))
    model = published.InceptionV3([published.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()
    files = [sorted(folder.iterdir()) for folder in folders]
    theirs = [fid_score.get_activations(some, model, batch_size=3) for some in files]
    extractor = InceptionFeatures("pytorch-fid", device="cpu")
    ours = [extractor.features(pictures(folder)) for folder in folders]
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one).mean() > 0.01
        assert one == pytest.approx(other, abs=1e-5 * np.abs(other).max())
    basis = np.linalg.qr(np.concatenate(theirs).T)[0]
    flat = [(some @ basis).T for some in theirs]
    moments = [value for some in flat for value in (some.mean(1), np.cov(some))]
    try:
        expected = fid_score.calculate_frechet_distance(*moments)
    except TypeError:
        pytest.skip("pytorch-fid's matrix root needs scipy before 1.18")
    assert expected > 0.1
    assert frechet_distance(*ours) == pytest.approx(expected, rel=1e-3)


def test_fid_of_two_folders_is_what_pytorch_fid_says(weights, folders, monkeypatch, realign, tmp_path):
    """The whole way, from the files to the number, with the same weights: its function and our command."""
    monkeypatch.setenv("TORCH_HOME", str(weights.parents[2]))
    for folder in folders:  # what it says of 2,048-d covariances of so few images is exact enough
        assert len(list(folder.iterdir())) == COUNT
    try:
        expected = fid_score.calculate_fid_given_paths([*map(str, folders)], COUNT, "cpu", 2048, num_workers=0)
    except TypeError:
        pytest.skip("pytorch-fid's matrix root needs scipy before 1.18")
    done = realign(
        *("eval", "--in", folders[0], "--reference", folders[1], "--metrics", "fid", "--preset", "inception", "--json"),
        *("--cache", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["fid"]["in"]
    assert (found["n"], found["n_reference"], found["dimensions"]) == (COUNT, COUNT, 2048)
    assert found["fid"] == pytest.approx(expected, rel=1e-3)


def test_resizing_decides_the_features_and_is_in_the_name(weights, folders):
    images = pictures(folders[0])[:3]
    extractors = {
        mode: InceptionFeatures(weights, device="cpu", resize=mode) for mode in ("pytorch-fid", "clean", "none")
    }
    features = {mode: extractor.features(images) for mode, extractor in extractors.items()}
    scale = np.abs(features["clean"]).max()
    assert np.abs(features["clean"] - features["pytorch-fid"]).max() > 1e-3 * scale
    assert np.abs(features["none"] - features["pytorch-fid"]).max() > 1e-3 * scale
    for mode, extractor in extractors.items():
        assert extractor.name.endswith(f"resize {mode}")
    assert len({extractor.fingerprint for extractor in extractors.values()}) == 3
    exact = [image.convert("RGB").resize((299, 299)) for image in images[:1]]
    alike = [extractor.features(exact) for extractor in extractors.values()]
    assert alike[0] == pytest.approx(alike[1], abs=1e-4 * scale)
    assert alike[0] == pytest.approx(alike[2], abs=1e-4 * scale)


def test_sizes_may_mix_and_batches_do_not_matter(weights, folders):
    images = [image.resize(size) for image, size in zip(pictures(folders[0]), [(96, 80), (120, 90)], strict=False)]
    for mode in ("clean", "none"):
        extractor = InceptionFeatures(weights, device="cpu", resize=mode)
        together = extractor.features(images)
        alone = np.concatenate([extractor.features([image]) for image in images])
        assert together == pytest.approx(alone, abs=1e-4 * np.abs(alone).max())
    assert extractor.features([]).shape == (0, 2048)


def test_without_weights_one_line_says_where_they_go(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(published, "FID_WEIGHTS_URL", "http://127.0.0.1:9/weights.pth")  # a port that nobody serves
    with pytest.raises(RealignError, match=r"no Inception weights .*put http.* into .*--set fid.checkpoint=") as caught:
        InceptionFeatures("pytorch-fid", device="cpu")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_used_is_refused(tmp_path, weights):
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(RealignError, match="no Inception weights"):
        InceptionFeatures(tmp_path / "text.pth", device="cpu")
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(RealignError, match="not a state dict of pytorch-fid's Inception"):
        InceptionFeatures(tmp_path / "other.pth", device="cpu")
    with pytest.raises(UsageError, match=r"fid.resize=cleen: choose pytorch-fid, clean, none"):
        InceptionFeatures(weights, device="cpu", resize="cleen")
    with pytest.raises(UsageError, match="74 x 90 pixels is too small"):
        InceptionFeatures(weights, device="cpu", resize="none").features([Image.new("RGB", (74, 90))])
