"""Pictures with their truth: rendered scenes, spoiled the way generated pictures are spoiled.

There are three recipes. `draw_loose` is for the models that find things: shapes may repeat, touch or cover each other,
and each may be off-colour or of two colours. `draw_leaky` is for the models that compare pictures with texts, and for
the features: a caption describes each scene fully, and some scenes leak an attribute, as a generator lets a prompt's
attributes leak. `draw_faulty` is for the models that must say what is wrong: half of its scenes may have a thing too
many or a malformed one. In all, every combination of pairs comes from the training split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scenes import COLOURS, GROUNDS, SIZE, Scene, Thing
from realign_cli.tinyworld.train import examples
from realign_cli.tinyworld.train.faults import faulty_scene

# How a model card describes each recipe.
LOOSE = "rendered scenes of the training split, spoiled; no other data"
LEAKY = (
    "fresh scenes of the training split, a quarter with a leaked attribute, three quarters spoiled (bent, blurred, "
    "noisy, off-colour)"
)
FAULTY = (
    f"{LEAKY}; half of them with up to two faults instead: a thing more, alike or not, or one that is malformed, "
    "crowded and touching"
)

_LOOSE_SHARE, _LEAKY_SHARE = 0.4, 0.25
_CLEAN_SHARE = 0.25


@dataclass(frozen=True)
class Pictures:
    """A batch of n pictures.

    `scenes`: what they show; `pixels`: float32 (n, 3, 64, 64) in [0, 1]; `shares`: for each picture the visible share
    of each pixel that each thing covers, float32 (things, 64, 64) in [0, 1].
    """

    scenes: list[Scene]
    pixels: Tensor
    shares: list[Tensor]

    @cached_property
    def kinds(self) -> list[list[str]]:
        """For each picture the kind of each thing."""
        return [[thing.shape for thing in scene.things] for scene in self.scenes]

    @cached_property
    def masks(self) -> list[Tensor]:
        """For each picture the visible part of each thing, bool (things, 64, 64)."""
        return [share > 0.5 for share in self.shares]

    @cached_property
    def boxes(self) -> list[Tensor]:
        """For each picture the boxes of its masks, see `boxes_of`."""
        return [boxes_of(mask) for mask in self.masks]

    def spoiled(self, rng: np.random.Generator) -> Pictures:
        """The same pictures with bent outlines, soft edges, uneven grounds, shifted colours and noise.

        How strongly differs from picture to picture; a quarter stays clean.
        """
        n = len(self.pixels)
        random = torch.Generator().manual_seed(int(rng.integers(2**62)))
        strength = torch.rand(n, 1, 1, 1, generator=random) * (torch.rand(n, 1, 1, 1, generator=random) > _CLEAN_SHARE)

        def noise(*shape: int) -> Tensor:
            return strength * torch.randn(n, *shape, generator=random)

        pixels, shares = _bend(self.pixels, self.shares, 1.2 * noise(2, 6, 6))
        pixels = _blur(pixels, 1.4 * strength.flatten(), reach=3)
        uneven = F.interpolate(noise(3, 6, 6), (SIZE, SIZE), mode="bicubic", align_corners=True)
        pixels = pixels * (1 + 0.07 * noise(3, 1, 1)) + 0.03 * noise(3, 1, 1) + 0.04 * uneven
        pixels = pixels + 0.03 * noise(3, SIZE, SIZE)
        return replace(self, pixels=pixels.clamp(0, 1), shares=shares)


def render(drawn: Sequence[Scene]) -> Pictures:
    """Clean pictures of scenes."""
    painted = [scenes.paint(_masks(scene), *scenes.palette(scene)) for scene in drawn]
    pixels = torch.from_numpy(np.stack([np.rint(image).astype(np.uint8) for image, _ in painted]))
    shares = [torch.from_numpy(visible) for _, visible in painted]
    return Pictures(list(drawn), pixels.permute(0, 3, 1, 2).float() / 255, shares)


def draw_held_out(n: int, seed: int, *, count: int | None = None) -> Pictures:
    """Draw n held-out scenes, each of `count` things if that is given, with clean pictures."""
    stream = scenes.scenes(seed, held_out=True, count=count)
    return render([next(stream) for _ in range(n)])


def draw_leaky(n: int, rng: np.random.Generator) -> Pictures:
    """Draw n spoiled pictures of training scenes, some of which leak an attribute."""
    return _leaky(n, rng).spoiled(rng)


def draw_faulty(n: int, rng: np.random.Generator, *, share: float = 0.5) -> Pictures:
    """Draw n spoiled pictures of training scenes: a `share` of them crowded and with faults, those before it leaky."""
    faults = round(share * n)
    leaky, faulty = _leaky(n - faults, rng), draw_faults(faults, rng)
    return Pictures(
        leaky.scenes + faulty.scenes, torch.cat([leaky.pixels, faulty.pixels]), leaky.shares + faulty.shares
    ).spoiled(rng)


def draw_faults(n: int, rng: np.random.Generator, *, held_out: bool = False) -> Pictures:
    """Draw n clean pictures of training scenes, or with `held_out` of others, which are crowded and have faults."""
    drawn, images, shares = [], [], []
    for _ in range(n):
        scene, masks = faulty_scene(rng, held_out=held_out)
        image, visible = scenes.paint(masks, *scenes.palette(scene))
        drawn.append(scene)
        images.append(image)
        shares.append(torch.from_numpy(visible))
    return Pictures(drawn, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255, shares)


def draw_loose(n: int, rng: np.random.Generator, *, held_out: bool = False, spoil: bool = True) -> Pictures:
    """Draw n pictures, some of up to four things that are arranged with little order. Their pixels are whole 255ths.

    With `held_out` they show held-out scenes, which are never loose; without `spoil` they are clean.
    """
    drawn, images, shares = [], [], []
    for _ in range(n):
        loose = not held_out and rng.random() < _LOOSE_SHARE
        scene = _loose_scene(rng) if loose else scenes.sample_scene(rng, held_out=held_out)
        image, visible = scenes.paint(_masks(scene), *_colours(scene, rng, spoil=spoil))
        drawn.append(scene)
        images.append(image)
        shares.append(torch.from_numpy(visible))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    if spoil:
        strength = rng.uniform(0, 1.2, (n, 1, 1, 1)) * (rng.random((n, 1, 1, 1)) < 0.7)
        pixels, shares = _bend(pixels, shares, torch.from_numpy(strength * rng.standard_normal((n, 2, 7, 7))).float())
        pixels = _blur(pixels, torch.from_numpy(rng.uniform(0, 1.4, n) * (rng.random(n) < 0.7)).float(), reach=4)
        deviation = torch.from_numpy(rng.uniform(0, 10, (n, 1, 1, 1)) * (rng.random((n, 1, 1, 1)) < 0.6)).float()
        pixels = pixels + deviation * torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
    return Pictures(drawn, pixels.clamp(0, 255).round() / 255, shares)


def boxes_of(masks: Tensor) -> Tensor:
    """Tight boxes of bool (N, H, W) masks: float32 (N, 4), x0, y0, x1, y1 in pixels with exclusive far edges."""
    boxes = torch.zeros(len(masks), 4)
    for box, mask in zip(boxes, masks, strict=True):
        ys, xs = mask.nonzero(as_tuple=True)
        if len(xs):
            box[:] = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return boxes


def _loose_scene(rng: np.random.Generator) -> Scene:
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
    return Scene(tuple(things), str(rng.choice(list(GROUNDS))))


def _leaky(n: int, rng: np.random.Generator) -> Pictures:
    drawn = [scenes.sample_scene(rng) for _ in range(n)]
    return render([examples.leak(scene, rng) if rng.random() < _LEAKY_SHARE else scene for scene in drawn])


def _masks(scene: Scene) -> list[np.ndarray]:
    return [scenes.mask(thing) for thing in scene.things]


def _colours(scene: Scene, rng: np.random.Generator, *, spoil: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    """Colours for `scenes.paint`; spoiled ones miss those of the palette, and some things have two."""
    jitter = 18.0 if spoil else 0.0
    ground, own = scenes.palette(scene)
    ground = ground + rng.normal(0, jitter / 2, 3)
    colours = []
    for thing, colour in zip(scene.things, own, strict=True):
        colours.append(colour + rng.normal(0, jitter, 3))
        if spoil and rng.random() < 0.15:
            colours[-1] = _two_tone(thing, colours[-1], rng)
    return ground, colours


def _two_tone(thing: Thing, colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A second colour over part of the thing, with a sharp or a soft border: (64, 64, 3)."""
    angle, softness = rng.uniform(0, 2 * math.pi), rng.uniform(1, 2 * thing.radius)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    along = (x - thing.x) * math.cos(angle) + (y - thing.y) * math.sin(angle)
    blend = np.clip(0.5 + along / softness, 0, 1)[..., None]
    return colour * (1 - blend) + np.array(COLOURS[str(rng.choice(list(COLOURS)))]) * blend


def _bend(pixels: Tensor, shares: list[Tensor], knots: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Shift pictures and shares along a smooth field through `knots`, (n, 2, rows, columns) in pixels."""
    n = len(pixels)
    shift = F.interpolate(knots, (SIZE, SIZE), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    steady = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 1, SIZE, SIZE], align_corners=False)
    grid = steady + shift * (2 / SIZE)
    bent = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    counts = [len(share) for share in shares]
    grids = grid.repeat_interleave(torch.tensor(counts), 0)
    moved = F.grid_sample(torch.cat(shares)[:, None], grids, align_corners=False)[:, 0]
    return bent, list(moved.split(counts))


def _blur(pixels: Tensor, sigmas: Tensor, *, reach: int) -> Tensor:
    """Gaussian blur with one deviation per picture, cut off after `reach` pixels; 0 leaves a picture alone."""
    n = len(pixels)
    offsets = torch.arange(-reach, reach + 1).float()
    kernel = torch.exp(-0.5 * (offsets / sigmas.clamp(min=0.05)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = F.pad(pixels.reshape(1, n * 3, SIZE, SIZE), [reach] * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=n * 3)
    return F.conv2d(flat, kernel[:, None, None, :], groups=n * 3).reshape(n, 3, SIZE, SIZE)
