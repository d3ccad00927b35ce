"""Rendered coloured shapes: the world in which the embedded models are trained and judged.

A scene holds one to three shapes of distinct colour and distinct kind on a plain ground, 64x64 pixels. A colour and a
kind make a *pair* ("red circle"). Two sets are never drawn for training: the pairs of `HELD_OUT_PAIRS`, and a little
more than half of all combinations of two pairs (`is_held_out`). So every reported number is about scenes that no model
has seen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, product

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 40),
    "green": (24, 148, 56),
    "blue": (28, 72, 220),
    "yellow": (248, 216, 24),
    "purple": (128, 40, 176),
    "orange": (250, 132, 16),
    "cyan": (40, 200, 224),
    "pink": (250, 152, 196),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
GROUNDS: dict[str, tuple[int, int, int]] = {"white": (244, 244, 244), "grey": (128, 128, 128), "black": (16, 16, 16)}
RELATIONS = ("left of", "right of", "above", "below")
SWAP, DROP = 0.4, 0.08  # how often the captions that the generator learns from are wrong, see `corrupt`
HELD_OUT_PAIRS = frozenset({("purple", "cross"), ("cyan", "triangle")})

_SUPERSAMPLE = 4
_RELATION_SHARE = 0.3
_CLEARANCE = 6  # a relation needs two centres at least this many pixels apart along its axis

Pair = tuple[str, str]


@dataclass(frozen=True)
class Thing:
    """One shape: its colour and kind, its centre (pixels from the left and the top) and its radius in pixels."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def pair(self) -> Pair:
        return self.colour, self.shape

    @property
    def phrase(self) -> str:
        return f"{article(self.colour)} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Things in the order in which the caption names them. If there is a `relation`, it holds between the first two."""

    things: tuple[Thing, ...]
    ground: str
    relation: str | None = None

    @property
    def caption(self) -> str:
        return compose([thing.phrase for thing in self.things], self.relation)


def article(word: str) -> str:
    """The indefinite article of a word."""
    return "an" if word[0] in "aeiou" else "a"


def compose(phrases: Sequence[str], relation: str | None = None) -> str:
    """Join one to three noun phrases into a caption: "A", "A and B", "A left of B", "A, B and C"."""
    if len(phrases) == 2:
        return f"{phrases[0]} {relation or 'and'} {phrases[1]}"
    return " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))


def all_pairs(*, held_out: bool = False) -> list[Pair]:
    """The colour-shape pairs seen in training, or with `held_out` the others."""
    return [pair for pair in product(COLOURS, SHAPES) if (pair in HELD_OUT_PAIRS) == held_out]


def is_held_out(a: Pair, b: Pair) -> bool:
    """Whether two pairs are never shown together in training. Symmetric; 144 of 256 by hash."""
    key = " ".join(sorted([" ".join(a), " ".join(b)]))
    return hashlib.sha256(key.encode()).digest()[0] < 144


def compatible(a: Pair, b: Pair) -> bool:
    """Whether two pairs may share a scene: their colours and their kinds must differ."""
    return a[0] != b[0] and a[1] != b[1]


def held_out_prompts() -> list[str]:
    """Every two-object prompt "a ... and a ..." of trained pairs in combinations no model saw, in a fixed order."""
    return _two_object_prompts(held_out=True)


def training_prompts() -> list[str]:
    """Every two-object prompt "a ... and a ..." in combinations that models are trained on, in a fixed order."""
    return _two_object_prompts(held_out=False)


def careless_examples(count: int) -> list[tuple[str, Scene]]:
    """Training scenes of two things, in a fixed order, with captions as careless as the generator learned from."""
    drawn = (scene for scene in scenes(51, count=2) if scene.relation is None)
    rng = np.random.default_rng(52)
    return [(corrupt(scene, rng, swap=SWAP, drop=DROP), scene) for scene in islice(drawn, count)]


def _two_object_prompts(*, held_out: bool) -> list[str]:
    prompts = []
    for a, b in combinations(all_pairs(), 2):
        if compatible(a, b) and is_held_out(a, b) == held_out:
            for first, second in ((a, b), (b, a)):
                prompts.append(compose([f"{article(c)} {c} {s}" for c, s in (first, second)]))
    return sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())


def sample_scene(rng: np.random.Generator, *, count: int | None = None, held_out: bool = False) -> Scene:
    """Draw a scene of one to three things (weights 2:5:2 unless `count` is given).

    `held_out` draws scenes of trained pairs in which at least one combination was kept from training.
    """
    count = int(rng.choice([1, 2, 3], p=[2 / 9, 5 / 9, 2 / 9])) if count is None else count
    pairs = _sample_pairs(rng, count, held_out)
    things = _place(rng, pairs)
    relation = None
    if count == 2 and rng.random() < _RELATION_SHARE:
        a, b = things
        holding = [name for name in RELATIONS if relation_holds(name, a.x, a.y, b.x, b.y)]
        relation = str(rng.choice(holding)) if holding else None
    return Scene(tuple(things), str(rng.choice(list(GROUNDS))), relation)


def relation_holds(relation: str, x0: float, y0: float, x1: float, y1: float) -> bool:
    """Whether the first centre (x0, y0) stands to the second (x1, y1) as `relation` says; y grows downwards."""
    return {
        "left of": x1 - x0,
        "right of": x0 - x1,
        "above": y1 - y0,
        "below": y0 - y1,
    }[relation] >= _CLEARANCE


def _sample_pairs(rng: np.random.Generator, count: int, held_out: bool) -> list[Pair]:
    pool = all_pairs()
    while True:
        pairs = [pool[i] for i in rng.choice(len(pool), size=count, replace=False)]
        together = list(combinations(pairs, 2))
        if all(compatible(a, b) for a, b in together) and (
            count == 1 or any(is_held_out(a, b) for a, b in together) == held_out
        ):
            return pairs


def _place(rng: np.random.Generator, pairs: Sequence[Pair]) -> list[Thing]:
    smallest, largest = (8.0, 10.5) if len(pairs) == 3 else (9.0, 13.0)
    while True:  # start over when the things drawn so far leave no room
        things: list[Thing] = []
        for colour, shape in pairs:
            for _ in range(20):
                radius = float(rng.uniform(smallest, largest))
                x, y = rng.uniform(radius + 2, SIZE - radius - 2, size=2)
                if all(math.hypot(x - t.x, y - t.y) >= radius + t.radius + 3 for t in things):
                    things.append(Thing(colour, shape, float(x), float(y), radius))
                    break
        if len(things) == len(pairs):
            return things


def _outline(shape: str, radius: float) -> list[tuple[float, float]]:
    """Corners of a polygonal shape around the origin, sized so that every kind looks about equally large."""
    if shape == "square":
        h = 0.86 * radius
        return [(-h, -h), (h, -h), (h, h), (-h, h)]
    if shape == "triangle":
        r = 1.12 * radius
        return [(r * math.sin(a), 0.18 * r - r * math.cos(a)) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    w, r = 0.36 * radius, radius
    quarter = [(-w, -r), (w, -r), (w, -w)]
    turns = [(1, 0), (0, 1), (-1, 0), (0, -1)]  # cosine and sine
    return [(c * x - s * y, s * x + c * y) for c, s in turns for x, y in quarter]


def mask(thing: Thing) -> np.ndarray:
    """The share of each pixel that a thing covers: float32 (64, 64) in [0, 1]."""
    s = _SUPERSAMPLE
    canvas = Image.new("L", (SIZE * s, SIZE * s))
    draw = ImageDraw.Draw(canvas)
    if thing.shape in ("circle", "ring"):
        for radius, value in ((thing.radius, 255), (0.5 * thing.radius if thing.shape == "ring" else 0, 0)):
            if radius:
                box = [(thing.x - radius) * s, (thing.y - radius) * s, (thing.x + radius) * s, (thing.y + radius) * s]
                draw.ellipse(box, fill=value)
    else:
        draw.polygon([((thing.x + x) * s, (thing.y + y) * s) for x, y in _outline(thing.shape, thing.radius)], fill=255)
    return np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float32) / 255


def render(scene: Scene) -> np.ndarray:
    """Draw a scene: uint8 RGB (64, 64, 3)."""
    image, _ = paint([mask(thing) for thing in scene.things], *palette(scene))
    return np.rint(image).astype(np.uint8)


def palette(scene: Scene) -> tuple[np.ndarray, list[np.ndarray]]:
    """The colour of the ground and those of the things: float32 RGB (3,) in [0, 255] each."""
    colours = [np.array(COLOURS[thing.colour], np.float32) for thing in scene.things]
    return np.array(GROUNDS[scene.ground], np.float32), colours


def paint(
    shares: Sequence[np.ndarray], ground: np.ndarray, colours: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Paint things one over the other: the picture, and what remains visible of each thing.

    `shares` are their masks, see `mask`. Colours are RGB, (3,) or one for each pixel, (64, 64, 3). The picture is
    float32 (64, 64, 3) on their scale, the visible share of each pixel float32 (things, 64, 64) in [0, 1].
    """
    image = np.empty((SIZE, SIZE, 3), np.float32)
    image[:] = ground
    visible = np.zeros((len(shares), SIZE, SIZE), np.float32)
    for k, (share, colour) in enumerate(zip(shares, colours, strict=True)):
        image = image * (1 - share[..., None]) + colour * share[..., None]
        visible[:k] *= 1 - share
        visible[k] = share
    return image.astype(np.float32), visible


def corrupt(scene: Scene, rng: np.random.Generator, *, swap: float, drop: float) -> str:
    """Caption a scene the way careless web captions do.

    With probability `swap` the colours of two things trade places (scenes of two or three only), with probability
    `drop` one thing loses its colour word; otherwise the caption is true. A swapped caption never names a pair of
    `HELD_OUT_PAIRS`.
    """
    pairs = [thing.pair for thing in scene.things]
    draw = rng.random()
    if draw < swap and len(pairs) > 1:
        i, j = rng.choice(len(pairs), size=2, replace=False)
        traded = {i: (pairs[j][0], pairs[i][1]), j: (pairs[i][0], pairs[j][1])}
        if not HELD_OUT_PAIRS & set(traded.values()):
            pairs = [traded.get(k, pair) for k, pair in enumerate(pairs)]
    phrases = [f"{article(colour)} {colour} {shape}" for colour, shape in pairs]
    if swap <= draw < swap + drop:
        k = int(rng.integers(len(pairs)))
        phrases[k] = f"{article(pairs[k][1])} {pairs[k][1]}"
    return compose(phrases, scene.relation)


def scenes(seed: int, *, held_out: bool = False, count: int | None = None) -> Iterator[Scene]:
    """An endless, repeatable stream of scenes."""
    rng = np.random.default_rng([seed, held_out])
    while True:
        yield sample_scene(rng, count=count, held_out=held_out)


def words() -> list[str]:
    """Every word of the world's captions, and the comma."""
    return ["a", "an", "and", ",", "left", "right", "of", "above", "below", *COLOURS, *SHAPES]
