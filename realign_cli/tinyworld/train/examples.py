"""What models learn about scenes beside their pictures: captions, foils, labels, and the contrast between them.

No text, true or false, that is made of a training scene names a pair or a combination that is kept from training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scenes import COLOURS, RELATIONS, SHAPES, SIZE, Scene

if TYPE_CHECKING:
    pass

GRID = 8  # patches along a side: the embedded vision towers read patches of 8x8 pixels
LABELS = (*COLOURS, *SHAPES)
_RELATION_SHARE = 0.3


def canonical(scene: Scene) -> str:
    """The caption that the captioner gives: colours in the order of `COLOURS`, joined without a relation.

    Unlike an order by position, this order has no ties that a single pixel decides.
    """
    return _caption(sorted(scene.things, key=lambda thing: [LABELS.index(word) for word in thing.pair]))


def any_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A true caption in any order; of two things, it sometimes names a relation that holds."""
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    relation = None
    if len(things) == 2 and rng.random() < _RELATION_SHARE:
        (a, b) = things
        holding = [name for name in RELATIONS if scenes.relation_holds(name, a.x, a.y, b.x, b.y)]
        relation = str(rng.choice(holding)) if holding else None
    return _caption(things, relation)


def foil(scene: Scene, rng: np.random.Generator) -> Scene:
    """A scene in which two things have traded colours or, where that is not allowed, one word is another.

    The foil of a training scene shows nothing that is held out; the foil of a held-out scene may.
    """
    allowed = _trainable if _trainable(scene) else _distinct
    trades = [traded for traded in swaps(scene) if allowed(traded)]
    if trades:
        return trades[rng.integers(len(trades))]
    while True:
        k = rng.integers(len(scene.things))
        word = str(rng.choice(LABELS))
        thing = replace(scene.things[k], **{"colour" if word in COLOURS else "shape": word})
        changed = _with(scene, {int(k): thing})
        if thing != scene.things[k] and allowed(changed):
            return changed


def leak(scene: Scene, rng: np.random.Generator) -> Scene:
    """Give one thing the colour or the kind of another, if the result is a combination that may be trained on."""
    options = []
    for i, j in permutations(range(len(scene.things)), 2):
        a, b = scene.things[i], scene.things[j]
        options += [_with(scene, {i: replace(a, colour=b.colour)}), _with(scene, {i: replace(a, shape=b.shape)})]
    options = [option for option in options if _trainable(option)]
    return options[rng.integers(len(options))] if options else scene


def swaps(scene: Scene) -> list[Scene]:
    """Every scene in which two things have traded colours, without those that show a held-out pair."""
    traded = []
    for i, j in combinations(range(len(scene.things)), 2):
        a, b = scene.things[i], scene.things[j]
        if a.colour != b.colour and a.shape != b.shape:
            traded.append(_with(scene, {i: replace(a, colour=b.colour), j: replace(b, colour=a.colour)}))
    return [s for s in traded if not scenes.HELD_OUT_PAIRS & {thing.pair for thing in s.things}]


def patch_labels(drawn: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Colour and kind of the thing over each patch, int64 (n, 64) each; the last index means none."""
    centres = (np.arange(GRID) + 0.5) * SIZE / GRID
    x, y = (axis.flatten() for axis in np.meshgrid(centres, centres))
    colours = np.full((len(drawn), GRID * GRID), len(COLOURS))
    kinds = np.full((len(drawn), GRID * GRID), len(SHAPES))
    for k, scene in enumerate(drawn):
        for thing in scene.things:
            over = (x - thing.x) ** 2 + (y - thing.y) ** 2 <= thing.radius**2
            colours[k, over] = list(COLOURS).index(thing.colour)
            kinds[k, over] = SHAPES.index(thing.shape)
    return torch.from_numpy(colours), torch.from_numpy(kinds)


def pair_table(drawn: Sequence[Scene]) -> Tensor:
    """Which pairs a scene shows: float32 (n, colours, kinds) of 0 and 1."""
    table = torch.zeros(len(drawn), len(COLOURS), len(SHAPES))
    for k, scene in enumerate(drawn):
        for thing in scene.things:
            table[k, list(COLOURS).index(thing.colour), SHAPES.index(thing.shape)] = 1
    return table


def false_negatives(rows: Sequence[Scene], columns: Sequence[Scene]) -> Tensor:
    """Which different items of a batch show the same pairs: bool (rows, columns), False on the diagonal."""
    shown = [[frozenset(thing.pair for thing in scene.things) for scene in side] for side in (rows, columns)]
    same = torch.tensor([[a == b for b in shown[1]] for a in shown[0]])
    return same.fill_diagonal_(False)


def info_nce(similarity: Tensor, same: Tensor) -> Tensor:
    """InfoNCE (van den Oord et al., 2018): row i of logits (n, m >= n) against column i, without the `same` ones."""
    return F.cross_entropy(similarity.masked_fill(same, -torch.inf), torch.arange(len(similarity)))


def _caption(things: Sequence[scenes.Thing], relation: str | None = None) -> str:
    return scenes.compose([thing.phrase for thing in things], relation)


def _with(scene: Scene, changes: dict[int, scenes.Thing]) -> Scene:
    return replace(scene, things=tuple(changes.get(k, thing) for k, thing in enumerate(scene.things)), relation=None)


def _distinct(scene: Scene) -> bool:
    """No two things are alike, and none is of a held-out pair."""
    pairs = {thing.pair for thing in scene.things}
    return len(pairs) == len(scene.things) and not scenes.HELD_OUT_PAIRS & pairs


def _trainable(scene: Scene) -> bool:
    together = combinations([thing.pair for thing in scene.things], 2)
    return _distinct(scene) and not any(scenes.is_held_out(a, b) for a, b in together)
