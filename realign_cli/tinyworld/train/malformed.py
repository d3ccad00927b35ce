"""Shapes that went wrong, as generated pictures show them: what captions call a "thing".

Each recipe turns a well-formed thing into its mask, float32 (64, 64) in [0, 1], which stays near the circle of the
thing's radius and looks like no known kind.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy import ndimage

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scenes import SIZE, Thing

_EDGE = 1.0  # pixels over which an edge fades


def mask(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """The mask of a malformed `thing`; its kind is what it was before."""
    return _RECIPES[rng.integers(len(_RECIPES))](thing, rng).astype(np.float32)


def beyond(thing: Thing, angle: float, offset: float, edge: float = _EDGE) -> np.ndarray:
    """What lies beyond a line that is `offset` pixels from a thing's centre in the direction `angle`: (64, 64)."""
    y, x = _grid(thing)
    return np.clip(0.5 + (x * math.cos(angle) + y * math.sin(angle) - offset) / edge, 0, 1)


def _bitten(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """A round piece is missing at the rim: also a ring that is open, a cross without an arm."""
    angle, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 0.75) * thing.radius
    away = 0.75 * thing.radius
    x, y = thing.x + away * math.cos(angle), thing.y + away * math.sin(angle)
    return scenes.mask(thing) * (1 - _disc(x, y, reach))


def _cut(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """About half of it is missing. A triangle is bitten instead, because half a triangle may be a smaller one."""
    if thing.shape == "triangle":
        return _bitten(thing, rng)
    return scenes.mask(thing) * beyond(thing, rng.uniform(0, 2 * math.pi), rng.uniform(-0.3, 0.3) * thing.radius)


def _split(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """In two parts with a gap between."""
    angle, offset = rng.uniform(0, 2 * math.pi), rng.uniform(-0.3, 0.1) * thing.radius
    gap = rng.uniform(0.25, 0.4) * thing.radius
    near, far = beyond(thing, angle, offset), beyond(thing, angle, offset + gap)
    return scenes.mask(thing) * (1 - near + far)


def _pierced(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """With a hole where none belongs; a circle and a ring, which would be a ring, are bitten instead."""
    if thing.shape in ("circle", "ring"):
        return _bitten(thing, rng)
    x, y = (thing.x, thing.y) + rng.uniform(-0.15, 0.15, 2) * thing.radius
    return scenes.mask(thing) * (1 - _disc(x, y, rng.uniform(0.28, 0.45) * thing.radius))


def _melted(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """Melted with a second shape of the same or of another kind."""
    angle, apart = rng.uniform(0, 2 * math.pi), rng.uniform(0.35, 0.6) * thing.radius
    other = thing.shape if rng.random() < 0.5 else str(rng.choice(scenes.SHAPES))
    x, y = apart * math.cos(angle), apart * math.sin(angle)
    first, second = rng.uniform(0.6, 0.8, 2) * thing.radius
    return np.maximum(
        scenes.mask(replace(thing, x=thing.x - x, y=thing.y - y, radius=first)),
        scenes.mask(replace(thing, x=thing.x + x, y=thing.y + y, radius=second, shape=other)),
    )


def _stretched(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """Half to two thirds as wide as it is high, or the other way round."""
    scale = np.ones(2)
    scale[rng.integers(2)] = 1 / rng.uniform(0.5, 0.66)
    centre = np.array([thing.y, thing.x]) - 0.5
    return ndimage.affine_transform(scenes.mask(thing), scale, centre - scale * centre, order=1)


def _blob(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """A random outline."""
    y, x = _grid(thing)
    angle, waves = np.arctan2(y, x), np.arange(2, 6)
    heights, phases = rng.normal(size=4), rng.uniform(0, 2 * math.pi, 4)
    outline = (heights * np.cos(waves * angle[..., None] + phases)).sum(-1) / np.abs(heights).sum()
    return np.clip(0.5 + thing.radius * (0.65 + 0.5 * outline) - np.hypot(x, y), 0, 1)


def _fragment(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """A crumb of a few pixels."""
    return _blob(replace(thing, radius=float(rng.uniform(4, 6))), rng)


_RECIPES = (_bitten, _cut, _split, _pierced, _melted, _stretched, _blob, _fragment)


def _grid(thing: Thing) -> np.ndarray:
    """How far the centre of each pixel is below and right of a thing's: (2, 64, 64)."""
    return np.mgrid[:SIZE, :SIZE] + 0.5 - np.array([thing.y, thing.x])[:, None, None]


def _disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    return np.clip(0.5 + radius - np.hypot(columns - x, rows - y), 0, 1)
