"""Features of two sets of images -> FID and KID, and what must be said with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from realign_cli.equations.frechet import Moments, frechet, moments
from realign_cli.equations.kid import Kid, kernel_distance
from realign_cli.errors import RealignError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEW = 2048  # below this many images FID depends mostly on their number
_LEAST = 2, 4  # images for a covariance, and for a subset of KID


@dataclass(frozen=True)
class Distance:
    """FID and KID of n images to n_reference (None where a file of statistics does not tell), on `dimensions` features.

    `kid` is None where the reference has no features, or either side fewer than 4.
    """

    fid: float
    n: int
    n_reference: int | None
    dimensions: int
    kid: Kid | None = None

    @property
    def caveat(self) -> str | None:
        counts = [n for n in (self.n, self.n_reference) if n is not None]
        if min(counts) >= FEW:
            return None
        return (
            f"FID of fewer than {FEW:,} images is biased upwards, the more the fewer: compare it only with FIDs of the "
            "same numbers of images; KID is not biased"
        )


@dataclass(frozen=True)
class Reference:
    """The other side of a distance: moments, and the features they are of unless only a file of statistics is left."""

    moments: Moments
    features: NDArray[np.float32] | None = None


def reference(features: NDArray[np.float32]) -> Reference:
    """A set of images, by their features (n, D), as reference.

    Raises:
        RealignError: fewer than 2 images.
    """
    if len(features) < _LEAST[0]:
        raise RealignError(f"fid needs at least {_LEAST[0]} images on each side, and here is {len(features)}")
    return Reference(moments(features), features)


def of_statistics(mean: NDArray[np.float64], covariance: NDArray[np.float64], n: int | None) -> Reference:
    """A reference of which only mean (D,) and covariance (D, D) are left."""
    return Reference(Moments(mean, covariance, n))


def distance(features: NDArray[np.float32], other: Reference) -> Distance:
    """FID and KID of features (n, D) to a reference.

    Raises:
        RealignError: fewer than 2 images, another number of dimensions, or numbers too large to compute with.
    """
    own = reference(features).moments
    width = len(own.mean)
    if width != len(other.moments.mean):
        raise RealignError(
            f"the reference has {len(other.moments.mean)} dimensions and the features here {width}: "
            "it was made with other features; make it again with 'realign eval stats'"
        )
    kid = None
    if other.features is not None and min(len(features), len(other.features)) >= _LEAST[1]:
        kid = kernel_distance(features, other.features)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            fid = frechet(own, other.moments)
    except np.linalg.LinAlgError:
        fid = np.nan
    if not np.isfinite(fid):
        raise RealignError(
            "fid: no finite distance; the features, or the statistics of the reference, are too large or NaN"
        )
    return Distance(fid, len(features), other.moments.n, width, kid)
