"""Pictures with their truth for the models that look at images: rendered scenes, spoiled the way generated images are.

Generated shapes are soft, bent, off-colour, sometimes of two colours, doubled or touching. The perception models train
on such pictures; every combination of pairs still comes from the training split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scenes import COLOURS, GROUNDS, SIZE, Thing

_LOOSE_SHARE = 0.4
_KERNEL = 4  # half width of the blur kernel in pixels


@dataclass(frozen=True)
class Pictures:
    """A batch of n pictures.

    `pixels`: float32 (n, 3, 64, 64), whole numbers in [0, 255]; `kinds`: the kind of each visible thing; `masks`: for
    each picture bool (things, 64, 64), the part of each thing that can be seen; `boxes`: float32 (things, 4), the
    masks' x0, y0, x1, y1 in pixels, the far edges exclusive.
    """

    pixels: Tensor
    kinds: list[list[str]]
    masks: list[Tensor]
    boxes: list[Tensor]


def draw(rng: np.random.Generator, n: int, *, held_out: bool = False, spoil: bool = True) -> Pictures:
    """Draw n pictures; training ones also hold loose arrangements of up to four things with repeated kinds."""
    images, kinds, shares = [], [], []
    for _ in range(n):
        if not held_out and rng.random() < _LOOSE_SHARE:
            things, ground = _loose(rng), str(rng.choice(list(GROUNDS)))
        else:
            scene = scenes.sample_scene(rng, held_out=held_out)
            things, ground = list(scene.things), scene.ground
        image, visible = _paint(things, ground, rng, spoil)
        images.append(image)
        kinds.append([thing.shape for thing in things])
        shares.append(visible)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    masks = [torch.from_numpy(visible) for visible in shares]
    if spoil:
        pixels, masks = _bend(pixels, masks, rng)
        pixels = _blur(pixels, rng.uniform(0, 1.4, n) * (rng.random(n) < 0.7))
        deviation = torch.from_numpy(rng.uniform(0, 10, (n, 1, 1, 1)) * (rng.random((n, 1, 1, 1)) < 0.6)).float()
        pixels = pixels + deviation * torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
    solid = [mask > 0.5 for mask in masks]
    return Pictures(pixels.clamp(0, 255).round(), kinds, solid, [boxes_of(mask) for mask in solid])


def boxes_of(masks: Tensor) -> Tensor:
    """Tight boxes of bool (N, H, W) masks: float32 (N, 4), x0, y0, x1, y1 with exclusive far edges."""
    boxes = torch.zeros(len(masks), 4)
    for box, mask in zip(boxes, masks, strict=True):
        ys, xs = mask.nonzero(as_tuple=True)
        if len(xs):
            box[:] = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return boxes


def _loose(rng: np.random.Generator) -> list[Thing]:
    """None to four things of any trained pairs, possibly alike, touching or slightly covering each other."""
    pool = scenes.all_pairs()
    things: list[Thing] = []
    for _ in range(rng.choice(5, p=[0.05, 0.2, 0.3, 0.3, 0.15])):
        for _ in range(20):
            pair = pool[rng.integers(len(pool))]
            radius = float(rng.uniform(6.5, 14))
            x, y = (float(v) for v in rng.uniform(0.9 * radius, SIZE - 0.9 * radius, size=2))
            free = all(math.hypot(x - t.x, y - t.y) >= 0.85 * (radius + t.radius) for t in things)
            pairs = [*(t.pair for t in things), pair]
            if free and not any(scenes.is_held_out(a, b) for a, b in combinations(pairs, 2)):
                things.append(Thing(*pair, x, y, radius))
                break
    return things


def _paint(things: list[Thing], ground: str, rng: np.random.Generator, spoil: bool) -> tuple[np.ndarray, np.ndarray]:
    """Paint things one over the other: float32 (64, 64, 3) in [0, 255] and what remains visible, (things, 64, 64)."""
    jitter = 18.0 if spoil else 0.0
    image = np.empty((SIZE, SIZE, 3), np.float32)
    image[:] = np.array(GROUNDS[ground]) + rng.normal(0, jitter / 2, 3)
    visible = np.zeros((len(things), SIZE, SIZE), np.float32)
    for k, thing in enumerate(things):
        share = scenes.mask(thing)
        colour = np.array(COLOURS[thing.colour], np.float32) + rng.normal(0, jitter, 3)
        if spoil and rng.random() < 0.15:
            colour = _two_tone(thing, colour, rng)
        image = image * (1 - share[..., None]) + colour * share[..., None]
        visible[:k] *= 1 - share
        visible[k] = share
    return image.astype(np.float32), visible


def _two_tone(thing: Thing, colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A second colour over part of the thing, with a sharp or a soft border: (64, 64, 3)."""
    angle, softness = rng.uniform(0, 2 * math.pi), rng.uniform(1, 2 * thing.radius)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    along = (x - thing.x) * math.cos(angle) + (y - thing.y) * math.sin(angle)
    blend = np.clip(0.5 + along / softness, 0, 1)[..., None]
    return colour * (1 - blend) + np.array(COLOURS[str(rng.choice(list(COLOURS)))]) * blend


def _bend(pixels: Tensor, masks: list[Tensor], rng: np.random.Generator) -> tuple[Tensor, list[Tensor]]:
    """Shift pixels along a smooth random field of up to a few pixels."""
    n = len(pixels)
    strength = rng.uniform(0, 1.2, (n, 1, 1, 1)) * (rng.random((n, 1, 1, 1)) < 0.7)
    knots = torch.from_numpy(strength * rng.standard_normal((n, 2, 7, 7))).float()
    shift = F.interpolate(knots, size=(SIZE, SIZE), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    steady = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 1, SIZE, SIZE], align_corners=False)
    grid = steady + shift * (2 / SIZE)
    bent = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    counts = [len(mask) for mask in masks]
    grids = grid.repeat_interleave(torch.tensor(counts), 0)
    moved = F.grid_sample(torch.cat(masks)[:, None], grids, align_corners=False)[:, 0]
    return bent, list(moved.split(counts))


def _blur(pixels: Tensor, sigmas: np.ndarray) -> Tensor:
    """Gaussian blur with one deviation in pixels per picture; 0 leaves a picture alone."""
    n = len(pixels)
    offsets = torch.arange(-_KERNEL, _KERNEL + 1).float()
    width = torch.from_numpy(sigmas).float().clamp(min=0.05)
    kernel = torch.exp(-0.5 * (offsets / width[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = F.pad(pixels.reshape(1, n * 3, SIZE, SIZE), [_KERNEL] * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=n * 3)
    return F.conv2d(flat, kernel[:, None, None, :], groups=n * 3).reshape(n, 3, SIZE, SIZE)
