"""Pictures whose right answer is beyond doubt: the example of the instructions, and attention checks."""

from __future__ import annotations

from itertools import product

import numpy as np
from PIL import Image, ImageDraw

_SIDE = 256
_COLOURS = {"red": (213, 43, 30), "blue": (0, 91, 187), "green": (0, 128, 60)}
_SHAPES = ("circle", "square", "triangle")
_NOISE = 90.0  # standard deviation, of 255


def example(count: int) -> tuple[str, list[Image.Image]]:
    """A text and up to four images: one that fits, one with its colours swapped, and two that lack a thing each."""
    wrong = [[("blue", "circle"), ("red", "square")], [("red", "circle")], [("blue", "square")]]
    pictures = [_scene([("red", "circle"), ("blue", "square")]), *map(_scene, wrong)]
    return "a red circle and a blue square", pictures[: min(count, len(pictures))]


def checks(count: int, seed: int) -> list[tuple[str, list[Image.Image]]]:
    """Nine texts with `count` images each, at most nine, of which the first is a clean drawing of the text.

    The others are drawings of other things, spoilt by noise, so that whoever looks prefers the first, by any question.
    """
    rng = np.random.default_rng(seed)
    things = list(product(_COLOURS, _SHAPES))
    spoilt = {thing: _spoil(_scene([thing]), rng) for thing in things}
    made = []
    for colour, shape in things:
        others = [image for thing, image in spoilt.items() if thing != (colour, shape)]
        picked = rng.choice(len(others), count - 1, replace=False)
        made.append((f"a {colour} {shape}", [_scene([(colour, shape)]), *(others[i] for i in picked)]))
    return made


def _scene(things: list[tuple[str, str]]) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _SIDE), "white")
    draw = ImageDraw.Draw(image)
    width = _SIDE / len(things)
    for number, (colour, shape) in enumerate(things):
        reach = 0.36 * width
        x, y = width * (number + 0.5), _SIDE / 2
        fill = _COLOURS[colour]
        if shape == "circle":
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill)
        elif shape == "square":
            draw.rectangle((x - reach, y - reach, x + reach, y + reach), fill=fill)
        else:
            draw.polygon([(x, y - reach), (x - reach, y + reach), (x + reach, y + reach)], fill=fill)
    return image


def _spoil(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, np.float64)
    return Image.fromarray((pixels + rng.normal(0, _NOISE, pixels.shape)).clip(0, 255).astype(np.uint8))
