"""Scenes that went wrong, as generated pictures do: a thing too many, or one that is malformed.

A malformed thing is a `Thing` of the kind `examples.MALFORMED`. Whatever is drawn keeps to what may be trained on.
"""

from __future__ import annotations

import math

import numpy as np

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scenes import COLOURS, SIZE, Pair, Scene, Thing
from realign_cli.tinyworld.train import malformed
from realign_cli.tinyworld.train.examples import MALFORMED

_COUNTS = (0.2, 0.6, 0.2)  # how often a scene has one, two or three things before it goes wrong
_FAULTS = (0.15, 0.55, 0.3)  # how often it has none, one or two faults
_REPEATED, _ADDED = 0.35, 0.5  # up to the first a fault is a pair once more, up to the second another pair
_ALIEN = 0.3  # how often a malformed thing has nothing of the scene's pairs
_SMALLEST, _SMALLEST_BROKEN, _LARGEST = 5.5, 8.0, 13.0  # radii; what is wrong with a small thing cannot be seen
_HIDDEN, _TWO_TONE = 0.15, 0.15  # how often the frame cuts a malformed thing off, and how often it has two colours


def faulty_scene(rng: np.random.Generator, *, held_out: bool = False) -> tuple[Scene, list[np.ndarray]]:
    """A crowded scene with up to two faults, and the mask of each thing. What finds no room is left out.

    With `held_out` it begins with a held-out combination of two pairs.
    """
    count = 2 if held_out else 1 + int(rng.choice(len(_COUNTS), p=_COUNTS))
    base = scenes.sample_scene(rng, count=count, held_out=held_out)
    whole, broken = [thing.pair for thing in base.things], []
    for _ in range(rng.choice(len(_FAULTS), p=_FAULTS)):
        pair, kind = whole[rng.integers(len(whole))], rng.random()
        if kind < _REPEATED:
            whole.append(pair)
        elif kind < _ADDED:
            whole += _another(rng, pair, whole)
        else:
            if len(whole) > 1 and rng.random() < 0.5:
                whole.remove(pair)
            pool = scenes.all_pairs()
            broken.append(pool[rng.integers(len(pool))] if rng.random() < _ALIEN else pair)
    occupied: list[Thing] = []
    things: list[Thing] = []
    masks: list[np.ndarray] = []
    for pair, well in [*((pair, True) for pair in whole), *((pair, False) for pair in broken)]:
        smallest = _SMALLEST if well else _SMALLEST_BROKEN
        thing = _placed(rng, pair, occupied, smallest, hidden=not well and rng.random() < _HIDDEN)
        if thing:
            occupied.append(thing)
            own = [(thing, scenes.mask(thing))] if well else _broken(rng, thing)
            things += [one for one, _ in own]
            masks += [mask for _, mask in own]
    return Scene(tuple(things), base.ground), masks


def _another(rng: np.random.Generator, pair: Pair, shown: list[Pair]) -> list[Pair]:
    """A trained pair with the colour or the kind of `pair`, not both, that may be shown too, if there is one."""
    options = [
        other
        for other in scenes.all_pairs()
        if (other[0] == pair[0]) != (other[1] == pair[1])
        and not any(scenes.is_held_out(other, one) for one in shown if one != other)
    ]
    return [options[rng.integers(len(options))]] if options else []


def _placed(
    rng: np.random.Generator, pair: Pair, occupied: list[Thing], smallest: float, *, hidden: bool
) -> Thing | None:
    """A thing that at most touches the others; a `hidden` one has its centre near the frame."""
    for _ in range(30):
        radius = float(rng.uniform(smallest, _LARGEST))
        x, y = rng.uniform(0.95 * radius, SIZE - 0.95 * radius, size=2)
        if hidden:
            x = rng.uniform(-0.3, 0.25) * radius
            x, y = (x, y) if rng.random() < 0.5 else (y, x)
            x, y = (x, y) if rng.random() < 0.5 else (SIZE - x, SIZE - y)
        if all(math.hypot(x - t.x, y - t.y) >= 0.95 * (radius + t.radius) for t in occupied):
            return Thing(*pair, float(x), float(y), radius)
    return None


def _broken(rng: np.random.Generator, thing: Thing) -> list[tuple[Thing, np.ndarray]]:
    """The malformed things that one of a known kind becomes, with their masks: one, or two of different colours."""
    centre = thing.x, thing.y
    if not all(0.5 * thing.radius < at < SIZE - 0.5 * thing.radius for at in centre):
        return [(_named(thing.colour, thing, *centre), scenes.mask(thing))]  # the frame cuts it off
    if rng.random() >= _TWO_TONE:
        return [(_named(thing.colour, thing, *centre), malformed.mask(thing, rng))]
    angle = rng.uniform(0, 2 * math.pi)
    second = str(rng.choice([colour for colour in COLOURS if colour != thing.colour]))
    mask, x, y = scenes.mask(thing), thing.radius / 2 * math.cos(angle), thing.radius / 2 * math.sin(angle)
    beyond = malformed.beyond(thing, angle, rng.uniform(-0.3, 0.3) * thing.radius, rng.uniform(1, thing.radius))
    return [
        (_named(thing.colour, thing, thing.x - x, thing.y - y, 0.6), mask),
        (_named(second, thing, thing.x + x, thing.y + y, 0.6), (mask * beyond).astype(np.float32)),
    ]


def _named(colour: str, thing: Thing, x: float, y: float, scale: float = 1.0) -> Thing:
    return Thing(colour, MALFORMED, x, y, scale * thing.radius)
