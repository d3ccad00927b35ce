"""Statistics go to and from pytorch-fid's files, and nothing in a file is executed."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pytorch_fid import fid_score

from realign_cli.errors import RealignError, UsageError
from realign_cli.evaluation.distance import distance, of_statistics
from realign_cli.evaluation.fid_stats import read_stats, write_stats

MEAN, COVARIANCE = np.array([1.0, 2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])


def test_pytorch_fid_reads_ours(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ours.npz"
    write_stats(path, MEAN, COVARIANCE, 7, "features of mine")
    mean, covariance = fid_score.compute_statistics_of_path(str(path), None, 1, 2, "cpu")
    assert np.array_equal(mean, MEAN) and np.array_equal(covariance, COVARIANCE)
    again = read_stats(path)
    assert (again.n, again.features) == (7, "features of mine")
    assert again.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(again.covariance, COVARIANCE)


def test_we_read_pytorch_fids(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "theirs.npz", mu=MEAN.astype(np.float32), sigma=COVARIANCE)
    found = read_stats(tmp_path / "theirs.npz")
    assert (found.mean.dtype, found.n, found.features) == (np.float64, None, None)
    assert np.array_equal(found.mean, MEAN)


def test_what_is_none_is_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", mu=MEAN)
    np.savez(tmp_path / "apart.npz", mu=MEAN, sigma=np.eye(3))
    np.savez(tmp_path / "object.npz", mu=np.array([print], dtype=object), sigma=COVARIANCE)
    np.save(tmp_path / "plain.npz", MEAN)
    (tmp_path / "plain.npz.npy").rename(tmp_path / "plain.npz")
    (tmp_path / "text.npz").write_text("text")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("other", "object", "plain", "text", "empty"):
        with pytest.raises(UsageError, match=rf"{name}.npz: not an .npz of statistics with 'mu' and 'sigma'"):
            read_stats(tmp_path / f"{name}.npz")
    with pytest.raises(UsageError, match=r"'mu' \(2,\) and 'sigma' \(3, 3\) do not belong together"):
        read_stats(tmp_path / "apart.npz")
    with pytest.raises(UsageError, match="no such file"):
        read_stats(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"sigma": np.full((2, 2), np.nan)}, "'sigma' holds NaN"),  # np.cov of one image
        ({"sigma": np.array([[np.inf, 0.5], [0.5, 1.0]])}, "'sigma' holds Inf"),
        ({"mu": np.array([1.0, np.nan])}, "'mu' holds NaN"),
        ({"mu": MEAN.astype(complex)}, "'mu' holds no real numbers but complex128"),
        ({"mu": np.array(["1", "2"])}, "'mu' holds no real numbers but <U1"),
        ({"sigma": np.array([[2.0, 0.5], [-0.5, 1.0]])}, "'sigma' is no covariance: it is not symmetric"),
        ({"sigma": -COVARIANCE}, "'sigma' is no covariance"),
        ({"mu": np.array([]), "sigma": np.empty((0, 0))}, "'mu' (0,) and 'sigma' (0, 0) do not belong together"),
        ({"n": 1}, "statistics of 1 images"),
        ({"n": np.nan}, "cannot convert float NaN to integer"),
    ],
)
def test_what_is_no_statistics_is_named(tmp_path: Path, numbers: dict[str, object], reason: str) -> None:
    np.savez(tmp_path / "bad.npz", **({"mu": MEAN, "sigma": COVARIANCE} | numbers))
    with pytest.raises(UsageError) as raised:
        read_stats(tmp_path / "bad.npz")
    assert f"bad.npz: not an .npz of statistics with 'mu' and 'sigma' ({reason}" in str(raised.value)


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_stats(tmp_path / name, MEAN, COVARIANCE, 7, "features of mine")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


WIDTH = 3
KINDS = st.one_of(
    arrays.floating_dtypes(), arrays.integer_dtypes(), arrays.complex_number_dtypes(), arrays.unicode_string_dtypes()
)
SOME = np.random.default_rng(0).normal(size=(8, WIDTH)).astype(np.float32)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Files of statistics as they should be, of other arrays, and with bytes changed, cut off or added."""
    rows = draw(arrays.arrays(np.float64, (4, WIDTH), elements=st.floats(allow_nan=False, width=32)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        numbers: dict[str, object] = {"mu": rows.mean(0), "sigma": np.cov(rows, rowvar=False)}
    for name in draw(st.sets(st.sampled_from(["mu", "sigma", "n", "features", "other"]), max_size=2)):
        numbers[name] = draw(arrays.arrays(KINDS, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
    for name in draw(st.sets(st.sampled_from(["mu", "sigma"]), max_size=1)):
        if draw(st.booleans()):
            del numbers[name]
    buffer = io.BytesIO()
    (np.savez if draw(st.booleans()) else np.savez_compressed)(buffer, **numbers)
    data = bytearray(buffer.getvalue())
    for place, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=4)):
        data[place] = byte
    return bytes(data[: draw(st.sampled_from([len(data), len(data), len(data) // 2, 30]))])


@fuzzed
@given(files() | st.binary(max_size=200))
def test_no_file_does_harm(tmp_path: Path, data: bytes) -> None:
    """Either one line, or numbers of which a distance comes out, or one line that says why none does."""
    (tmp_path / "any.npz").write_bytes(data)
    try:
        found = read_stats(tmp_path / "any.npz")
    except UsageError as error:
        assert str(error).startswith(f"{tmp_path}/any.npz: not an .npz of statistics") and "\n" not in str(error)
        return
    assert np.isfinite(found.mean).all() and np.isfinite(found.covariance).all()
    assert found.covariance.shape == (len(found.mean),) * 2 and (found.n is None or found.n >= 2)
    try:
        fid = distance(SOME, of_statistics(found.mean, found.covariance, found.n)).fid
    except RealignError as error:
        assert "dimensions" in str(error) or "no finite distance" in str(error)
    else:
        assert np.isfinite(fid)
