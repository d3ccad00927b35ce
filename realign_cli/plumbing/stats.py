"""Statistics of features as pytorch-fid's .npz: `mu` and `sigma`; ours also tell `n` and the `features`' name."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from realign_cli.errors import UsageError
from realign_cli.plumbing import atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIX = ".npz"


class Stats(NamedTuple):
    """Mean (D,) and covariance (D, D) of n features; n and the name of the features where the file tells them."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    n: int | None = None
    features: str | None = None


def write_stats(path: Path, mean: NDArray[np.float64], covariance: NDArray[np.float64], n: int, features: str) -> None:
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, mu=mean, sigma=covariance, n=n, features=features)
    atomic.write_bytes(path, buffer.getvalue())


def read_stats(path: Path) -> Stats:
    """Read a file of this program or of pytorch-fid.

    Raises:
        UsageError: no such file, or no mean and covariance that belong together in it.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = file["mu"].astype(np.float64), file["sigma"].astype(np.float64)
            n = int(file["n"]) if "n" in file else None
            name = str(file["features"]) if "features" in file else None
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: not an .npz of statistics with 'mu' and 'sigma' ({reason})") from None
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UsageError(f"{path}: 'mu' {mean.shape} and 'sigma' {covariance.shape} do not belong together")
    return Stats(mean, covariance, n, name)
