"""Statistics of features as pytorch-fid's .npz: `mu` and `sigma`; ours also tell `n` and the `features`' name."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from realign_cli.errors import UsageError, first_line
from realign_cli.files import atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIX = ".npz"


class Stats(NamedTuple):
    """Mean (D,) and covariance (D, D) of n features, finite; n and the name of the features where the file tells them.

    `sha256` is of the file.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    sha256: str
    n: int | None = None
    features: str | None = None


def write_stats(path: Path, mean: NDArray[np.float64], covariance: NDArray[np.float64], n: int, features: str) -> None:
    """Write a file that is the same, byte for byte, for the same numbers."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, mu=mean, sigma=covariance, n=n, features=features)
    atomic.write_bytes(path, buffer.getvalue())


def read_stats(path: Path) -> Stats:
    """Read a file of this program or of pytorch-fid.

    Raises:
        UsageError: no such file, or no mean and covariance in it that belong together and are such.
    """
    import numpy as np

    try:
        data = path.read_bytes()
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            mean, covariance, n, name = _checked(file)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except Exception as error:  # numpy, zipfile and zlib raise whatever a file's bytes lead them to
        raise UsageError(f"{path}: not an .npz of statistics with 'mu' and 'sigma' ({first_line(error)})") from None
    return Stats(mean, covariance, hashlib.sha256(data).hexdigest(), n, name)


def _checked(file: Mapping[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], int | None, str | None]:
    """Mean, covariance, n and name of the features.

    Raises:
        ValueError: they are not what they are called.
    """
    import numpy as np

    arrays = {name: np.asarray(file[name]) for name in ("mu", "sigma")}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise ValueError(f"'{name}' holds no real numbers but {array.dtype}")
        if not np.isfinite(array).all():
            raise ValueError(f"'{name}' holds {'NaN' if np.isnan(array).any() else 'Inf'}")
    mean, covariance = (array.astype(np.float64) for array in arrays.values())
    if mean.ndim != 1 or not mean.size or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"'mu' {mean.shape} and 'sigma' {covariance.shape} do not belong together")
    scale = np.abs(covariance).max()
    if not np.allclose(covariance, covariance.T, atol=1e-6 * scale) or (covariance.diagonal() < 0).any():
        raise ValueError("'sigma' is no covariance: it is not symmetric, or has a negative variance")
    n = int(file["n"]) if "n" in file else None
    if n is not None and n < 2:
        raise ValueError(f"statistics of {n} images")
    return mean, covariance, n, str(file["features"]) if "features" in file else None
