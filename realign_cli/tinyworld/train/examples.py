"""What models learn about scenes beside their pictures: captions, foils, labels, and the contrast between them.

No text, true or false, that is made of a training scene names a pair or a combination that is kept from training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scenes import COLOURS, RELATIONS, SHAPES, SIZE, Scene, Thing

GRID = 8  # patches along a side: the embedded vision towers read patches of 8x8 pixels
LABELS = (*COLOURS, *SHAPES)
MALFORMED = "thing"  # the word of captions for what has no known kind, and the kind of a `Thing` that is malformed
KINDS = (*SHAPES, MALFORMED)
NUMBERS = ("two", "three")
MOST = 1 + len(NUMBERS)  # so many things of a scene may be alike
_RELATION_SHARE = 0.3


def canonical(scene: Scene) -> str:
    """The caption that the captioner gives: colours in the order of `COLOURS`, joined without a relation.

    Unlike an order by position, this order has no ties that a single pixel decides.
    """
    return caption_of(sorted(scene.things, key=lambda thing: (LABELS.index(thing.colour), KINDS.index(thing.shape))))


def any_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A true caption in any order; of two things, it sometimes names a relation that holds."""
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    relation = None
    if len(things) == 2 and _distinct(scene) and rng.random() < _RELATION_SHARE:
        (a, b) = things
        holding = [name for name in RELATIONS if scenes.relation_holds(name, a.x, a.y, b.x, b.y)]
        relation = str(rng.choice(holding)) if holding else None
    return caption_of(things, relation)


def caption_of(things: Sequence[Thing], relation: str | None = None) -> str:
    """Name things in their order; those that are alike are counted where the first of them stands."""
    counts = Counter(thing.pair for thing in things)
    return scenes.compose([_phrase(pair, count) for pair, count in counts.items()], relation)


def caption_words() -> list[str]:
    """Every word of captions: those of prompts, and what it takes to name more than a prompt asks for."""
    return [*scenes.words(), *NUMBERS, MALFORMED, *map(_plural, KINDS)]


def foil(scene: Scene, rng: np.random.Generator) -> Scene:
    """A scene in which two things have traded colours or, where that is not allowed, one word is another.

    The foil of a training scene shows nothing that is held out; the foil of a held-out scene may. `scene` is an
    ordinary one, see `ordinary`, and so is its foil.
    """
    trades = [traded for traded in swaps(scene) if _distinct(traded) and _allowed(traded, scene)]
    if trades:
        return trades[rng.integers(len(trades))]
    while True:
        k = rng.integers(len(scene.things))
        word = str(rng.choice(LABELS))
        thing = replace(scene.things[k], **{"colour" if word in COLOURS else "shape": word})
        changed = _with(scene, {int(k): thing})
        if thing != scene.things[k] and _distinct(changed) and _allowed(changed, scene):
            return changed


def miscount(scene: Scene, rng: np.random.Generator) -> Scene:
    """A scene of one thing more or less, or with a thing malformed or formed, or with the colours of two things traded.

    Each of these is as likely as the others where it can be done. What is held out is treated as `foil` does.
    """
    things = scene.things
    less = [replace(scene, things=things[:k] + things[k + 1 :]) for k in range(len(things)) if len(things) > 1]
    more = [replace(scene, things=(*things, replace(one, shape=s))) for one in things for s in (one.shape, MALFORMED)]
    formed = [
        _with(scene, {k: replace(thing, shape=shape)})
        for k, thing in enumerate(things)
        for shape in (SHAPES if thing.shape == MALFORMED else [MALFORMED])
    ]
    groups = [[s for s in group if _allowed(s, scene)] for group in (less, more, formed, swaps(scene))]
    groups = [group for group in groups if group]
    options = groups[rng.integers(len(groups))]
    return replace(options[rng.integers(len(options))], relation=None)


def ordinary(scene: Scene) -> bool:
    """Whether a scene is as prompts describe it: one to three things, no two alike and none malformed."""
    return len(scene.things) <= 3 and _distinct(scene) and all(thing.shape in SHAPES for thing in scene.things)


def leak(scene: Scene, rng: np.random.Generator) -> Scene:
    """Give one thing the colour or the kind of another, if the result is a combination that may be trained on."""
    options = []
    for i, j in permutations(range(len(scene.things)), 2):
        a, b = scene.things[i], scene.things[j]
        options += [_with(scene, {i: replace(a, colour=b.colour)}), _with(scene, {i: replace(a, shape=b.shape)})]
    options = [option for option in options if trainable(option) and _distinct(option)]
    return options[rng.integers(len(options))] if options else scene


def swaps(scene: Scene) -> list[Scene]:
    """Every scene in which two things have traded colours, without those that show a held-out pair."""
    traded = []
    for i, j in combinations(range(len(scene.things)), 2):
        a, b = scene.things[i], scene.things[j]
        if a.colour != b.colour and a.shape != b.shape:
            traded.append(_with(scene, {i: replace(a, colour=b.colour), j: replace(b, colour=a.colour)}))
    return [s for s in traded if not _of_held_out_pairs(s)]


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


def count_table(drawn: Sequence[Scene]) -> Tensor:
    """How many things of each colour and kind a scene shows: int64 (n, colours, `KINDS`)."""
    table = torch.zeros(len(drawn), len(COLOURS), len(KINDS), dtype=torch.long)
    for k, scene in enumerate(drawn):
        for thing in scene.things:
            table[k, list(COLOURS).index(thing.colour), KINDS.index(thing.shape)] += 1
    return table


def pair_table(drawn: Sequence[Scene]) -> Tensor:
    """Which pairs a scene shows: float32 (n, colours, kinds) of 0 and 1."""
    return (count_table(drawn)[..., : len(SHAPES)] > 0).float()


def false_negatives(rows: Sequence[Scene], columns: Sequence[Scene]) -> Tensor:
    """Which different items of a batch show the same things: bool (rows, columns), False on the diagonal."""
    shown = [[sorted(thing.pair for thing in scene.things) for scene in side] for side in (rows, columns)]
    same = torch.tensor([[a == b for b in shown[1]] for a in shown[0]])
    return same.fill_diagonal_(False)


def info_nce(similarity: Tensor, same: Tensor) -> Tensor:
    """InfoNCE (van den Oord et al., 2018): row i of logits (n, m >= n) against column i, without the `same` ones."""
    return F.cross_entropy(similarity.masked_fill(same, -torch.inf), torch.arange(len(similarity)))


def trainable(scene: Scene) -> bool:
    """Whether a scene shows no pair and no combination that is kept from training.

    A malformed thing makes no pair, and a pair that is shown twice no combination.
    """
    pairs = {thing.pair for thing in scene.things if thing.shape in SHAPES}
    return not scenes.HELD_OUT_PAIRS & pairs and not any(scenes.is_held_out(a, b) for a, b in combinations(pairs, 2))


def _allowed(changed: Scene, scene: Scene) -> bool:
    """Whether a text of `changed` may be learned from beside `scene`: only what is held out already may show it too.

    Pairs of `HELD_OUT_PAIRS` are in no text, and no text counts further than `MOST`.
    """
    if max(Counter(thing.pair for thing in changed.things).values()) > MOST:
        return False
    return trainable(changed) or (not trainable(scene) and not _of_held_out_pairs(changed))


def _of_held_out_pairs(scene: Scene) -> bool:
    return not scenes.HELD_OUT_PAIRS.isdisjoint(thing.pair for thing in scene.things)


def _phrase(pair: scenes.Pair, count: int) -> str:
    colour, kind = pair
    number = scenes.article(colour) if count == 1 else NUMBERS[count - 2]
    return f"{number} {colour} {kind if count == 1 else _plural(kind)}"


def _plural(kind: str) -> str:
    return kind + ("es" if kind.endswith("s") else "s")


def _with(scene: Scene, changes: dict[int, Thing]) -> Scene:
    return replace(scene, things=tuple(changes.get(k, thing) for k, thing in enumerate(scene.things)), relation=None)


def _distinct(scene: Scene) -> bool:
    """Whether no two things are alike."""
    return len({thing.pair for thing in scene.things}) == len(scene.things)
