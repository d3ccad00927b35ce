"""The independent judge of the tiny world: it reads colour, kind, place and number of shapes from any image's pixels.

It is a program, not a trained model, and no stage of the method may consult it; only `eval` and the trainers' cards do.
Each pixel is assigned the nearest colour of the palette or the ground. Connected regions of one colour are things if
they survive an erosion, which removes the mixed colours of edges. The soft mask of a thing, scaled to a common frame,
is assigned the kind whose template it overlaps best, or none if it fits badly or the thing is stretched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PILImage
from scipy import ndimage

from realign_cli.tinyworld import scenes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_FRAME = 24
_MIN_AREA, _MIN_CORE = 24, 4  # pixels of a region, and of what an erosion leaves of it
_MIN_OVERLAP = 0.7
_MAX_ASPECT = 1.4  # longer over shorter side of a bounding box; clean renders reach 1.22
_INSIDE = 0.3  # a pixel covered by at least this share is in the bounding box; the tip of a triangle covers little


@dataclass(frozen=True)
class Seen:
    """A thing in an image. Its kind is None where no template fits; x and y are its centre in pixels of 64x64."""

    colour: str
    shape: str | None
    x: float
    y: float
    area: int


@dataclass(frozen=True)
class Asked:
    """What a prompt asks for: (colour or None, kind) in the order of the prompt, and the relation of the first two."""

    pairs: tuple[tuple[str | None, str], ...]
    relation: str | None


def read(image: Image) -> list[Seen]:
    """Every thing in the image, largest first."""
    pixels = np.asarray(image.convert("RGB").resize((scenes.SIZE, scenes.SIZE), PILImage.Resampling.BOX), np.float32)
    frame = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), pixels[:, 0], pixels[:, -1]])
    ground = np.median(frame, axis=0)
    palette = np.array([ground, *scenes.COLOURS.values()])
    nearest = ((pixels[:, :, None] - palette) ** 2).sum(-1).argmin(-1)
    seen = []
    for index, colour in enumerate(scenes.COLOURS, 1):
        regions, count = ndimage.label(nearest == index, structure=np.ones((3, 3)))
        for k in range(1, count + 1):
            region = regions == k
            area = int(region.sum())
            if area >= _MIN_AREA and ndimage.binary_erosion(region, np.ones((3, 3))).sum() >= _MIN_CORE:
                soft = _soft_mask(pixels, region, ground, palette[index])
                ys, xs = np.nonzero(soft > _INSIDE)
                if len(ys):
                    centre = (xs.min() + xs.max() + 1) / 2, (ys.min() + ys.max() + 1) / 2
                    seen.append(Seen(colour, _kind(soft), float(centre[0]), float(centre[1]), area))
    return sorted(seen, key=lambda thing: -thing.area)


def parse(prompt: str) -> Asked:
    """Read a prompt of the world's grammar; other words are ignored."""
    colours, shapes = "|".join(scenes.COLOURS), "|".join(scenes.SHAPES)
    found = re.findall(rf"(?:\b({colours})\s+)?\b({shapes})\b", prompt.lower())
    relation = next((name for name in scenes.RELATIONS if f" {name} " in prompt.lower()), None)
    return Asked(tuple((colour or None, shape) for colour, shape in found), relation if len(found) == 2 else None)


class Oracle:
    """`roles.ImageTextMetric` with the columns presence, binding, relation and all_correct, each 0 or 1.

    presence: every kind asked for is there, in whatever colour; binding: every asked pair of colour and kind is there;
    relation: it holds between the two asked things (None if the prompt names none, 0 if one of them is missing);
    all_correct: binding and relation hold and there is nothing else in the image.
    """

    note = "0 or 1, read from the pixels of the embedded world by a program"
    fingerprint = None

    def __init__(self, checkpoint: str = "", *, device: str = "cpu") -> None:
        pass

    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        return [False] * len(prompts)

    def measure(self, images: Sequence[Image], prompts: Sequence[str]) -> dict[str, list[float | None]]:
        verdicts = [verdict(read(image), parse(prompt)) for image, prompt in zip(images, prompts, strict=True)]
        columns = ("presence", "binding", "relation", "all_correct")
        return {column: [one[column] for one in verdicts] for column in columns}


def verdict(seen: Sequence[Seen], asked: Asked) -> dict[str, float | None]:
    """Compare what is seen with what was asked; see `Oracle`."""
    matches = [_match(seen, pair) for pair in asked.pairs]
    presence = bool(matches) and all(any(thing.shape == shape for thing in seen) for _, shape in asked.pairs)
    binding = bool(matches) and all(match is not None for match in matches)
    relation = None
    if asked.relation:
        first, second = matches
        relation = float(
            first is not None
            and second is not None
            and scenes.relation_holds(asked.relation, first.x, first.y, second.x, second.y)
        )
    exact = binding and relation != 0.0 and len(seen) == len(asked.pairs)
    return {"presence": float(presence), "binding": float(binding), "relation": relation, "all_correct": float(exact)}


def _match(seen: Sequence[Seen], pair: tuple[str | None, str]) -> Seen | None:
    colour, shape = pair
    return next((thing for thing in seen if thing.shape == shape and colour in (None, thing.colour)), None)


def _soft_mask(
    pixels: NDArray[np.float32], region: NDArray[np.bool_], ground: NDArray[np.float32], colour: NDArray[np.float32]
) -> NDArray[np.float32]:
    """How far each pixel near `region` lies from the ground's colour towards the thing's, in [0, 1]."""
    near = ndimage.binary_dilation(region, np.ones((3, 3)), iterations=2)
    towards = colour - ground
    share = ((pixels - ground) @ towards) / max(float(towards @ towards), 1.0)
    return np.where(near, np.clip(share, 0, 1), 0).astype(np.float32)


def _kind(soft: NDArray[np.float32]) -> str | None:
    framed = _framed(soft)
    overlaps = {
        shape: np.minimum(framed, template).sum() / np.maximum(framed, template).sum()
        for shape, template in _templates().items()
    }
    best = max(overlaps, key=overlaps.__getitem__)
    return best if overlaps[best] >= _MIN_OVERLAP and _aspect(soft) <= _MAX_ASPECT else None


def _aspect(soft: NDArray[np.float32]) -> float:
    short, long = sorted(int(np.ptp(indices)) + 1 for indices in np.nonzero(soft > _INSIDE))
    return long / short


@cache
def _templates() -> dict[str, NDArray[np.float32]]:
    centre = scenes.SIZE / 2
    return {shape: _framed(scenes.mask(scenes.Thing("red", shape, centre, centre, 20.0))) for shape in scenes.SHAPES}


def _framed(soft: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mask's bounding box stretched to a common square."""
    ys, xs = np.nonzero(soft > _INSIDE)
    box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
    image = PILImage.fromarray((soft * 255).astype(np.uint8))
    scaled = image.resize((_FRAME, _FRAME), PILImage.Resampling.BILINEAR, box=box)
    return np.asarray(scaled, np.float32) / np.float32(255)
