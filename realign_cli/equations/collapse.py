"""Signs that training towards a reward has spoiled the images, measured on fixed prompts before and during training."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEWER, _MORE = 0.9, 1.25  # of what it was: a judge that falls below, a number of things that rises above
_DARK = 0.1  # luminance below which a pixel is dark
_LEVELS = 4  # per channel, in the histogram of colours
_EDGE = 0.1  # difference of luminance between neighbours that makes an edge
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def appearance(images: NDArray[np.uint8]) -> dict[str, float]:
    """What images (P, S, H, W, 3) of P prompts and S >= 2 seeds each look like, as means over them.

    `dark`: share of dark pixels. `entropy`: of the colours, in bits, at most 6. `edges`: share of neighbouring pixels
    that differ. `diversity`: mean absolute difference, in [0, 1], between images of one prompt.
    """
    flat = images.reshape(-1, *images.shape[2:])
    luma = flat @ _LUMA / 255
    steps = [np.abs(np.diff(luma, axis=axis)) > _EDGE for axis in (1, 2)]
    pixels = images.astype(np.float64) / 255
    count = images.shape[1]
    apart = [np.abs(pixels[:, i] - pixels[:, j]).mean() for i in range(count) for j in range(i)]
    return {
        "dark": float((luma < _DARK).mean()),
        "entropy": float(np.mean([_entropy(image) for image in flat])),
        "edges": float(np.mean([step.mean() for step in steps])),
        "diversity": float(np.mean(apart)),
    }


def collapsed(now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """What has gone wrong since `before`, in words; empty while the images look as rich as they did."""
    signs = [
        f"{name} fell from {before[name]:.3f} to {now[name]:.3f}"
        for name in ("entropy", "edges", "diversity")
        if now[name] < 0.5 * before[name]
    ]
    if now["dark"] > before["dark"] + 0.25:
        signs.append(f"dark pixels rose from {before['dark']:.0%} to {now['dark']:.0%}")
    return signs


def hacked(now: Mapping[str, float], before: Mapping[str, float], judges: Collection[str]) -> list[str]:
    """What says since `before`, in words, that a reward is earned by something else than better images.

    `judges` names the numbers that nothing is trained on, higher being better; `things` is how many things an image
    shows, which rewards that look for what is missing like to raise.
    """
    signs = [
        f"{name}, which is not trained on, fell from {before[name]:.3f} to {now[name]:.3f}"
        for name in judges
        if now[name] < _FEWER * before[name]
    ]
    if now["things"] > _MORE * before["things"]:
        signs.append(f"things per image rose from {before['things']:.1f} to {now['things']:.1f}")
    return signs


def _entropy(image: NDArray[np.uint8]) -> float:
    bins = (image // (256 // _LEVELS)).astype(np.int64) @ np.array([_LEVELS**2, _LEVELS, 1])
    share = np.bincount(bins.ravel()) / bins.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())
