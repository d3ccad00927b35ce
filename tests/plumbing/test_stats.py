"""Statistics go to and from pytorch-fid's files, and nothing in a file is executed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pytorch_fid import fid_score

from realign_cli.errors import UsageError
from realign_cli.plumbing.stats import read_stats, write_stats

MEAN, COVARIANCE = np.array([1.0, 2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])


def test_pytorch_fid_reads_ours(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ours.npz"
    write_stats(path, MEAN, COVARIANCE, 7, "features of mine")
    mean, covariance = fid_score.compute_statistics_of_path(str(path), None, 1, 2, "cpu")
    assert np.array_equal(mean, MEAN) and np.array_equal(covariance, COVARIANCE)
    again = read_stats(path)
    assert (again.n, again.features) == (7, "features of mine")
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
