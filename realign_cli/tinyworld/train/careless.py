"""How people write prompts of the embedded world when they do not care: what the rewriter learns to set right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from realign_cli.tinyworld.scenes import COLOURS, SHAPES, Pair, Scene, article

if TYPE_CHECKING:
    import numpy as np

_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "red": ("crimson", "scarlet"),
    "green": ("emerald",),
    "blue": ("azure", "navy"),
    "yellow": ("golden", "lemon"),
    "purple": ("violet",),
    "orange": ("tangerine",),
    "cyan": ("turquoise", "aqua"),
    "pink": ("rosy",),
    "circle": ("disc", "disk", "dot"),
    "square": ("box", "block"),
    "triangle": ("wedge",),
    "cross": ("x", "plus sign"),
    "ring": ("hoop", "donut"),
    "left of": ("to the left of", "on the left of"),
    "right of": ("to the right of", "on the right of"),
    "above": ("over", "on top of"),
    "below": ("under", "beneath"),
}
_PHRASES = (
    *("{a} {colour} {shape}", "{colour} {shape}", "{shape} {colour}", "the {colour} {shape}", "one {colour} {shape}"),
    *("{a} {colour}-coloured {shape}", "{colour} colored {shape}", "{wrong} {colour} {shape}"),
    *(
        "{shape} in {colour}",
        "a {shape} that is {colour}",
        "{a} {filler} {colour} {shape}",
        "{shape} coloured {colour}",
    ),
)
_JOINTS = (" and ", " plus ", " with ", " + ", " & ", ", ", " ", " next to ", " together with ", " beside ")
_BEFORE = ("draw ", "please draw ", "a picture of ", "an image of ", "show me ", "i want ")
_AFTER = (" please", ".", "!", ", thanks", " side by side")
_FILLERS = ("nice", "simple", "pretty", "plain")
_SYNONYM, _AROUND, _APART, _NO_COLOUR = 0.25, 0.2, 0.08, 0.04  # how often


def careless(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A careless prompt of a scene, and the plain prompt that it means.

    Both name the same things in the same order. In a few, one thing has no colour, and then it has none in either.
    """
    pairs = [thing.pair for thing in scene.things]
    plain = scene.caption
    if scene.relation is None and len(pairs) == 2 and rng.random() < _APART:
        text = _colours_apart(pairs, rng)
    else:
        phrases = [_phrase(pair, rng) for pair in pairs]
        if rng.random() < _NO_COLOUR:
            k = int(rng.integers(len(pairs)))
            shape = pairs[k][1]
            bare = f"{article(shape)} {shape}"
            plain = plain.replace(scene.things[k].phrase, bare)
            phrases[k] = shape if rng.random() < 0.5 else bare
        joint = f" {_other(scene.relation, rng)} " if scene.relation else _pick(_JOINTS, rng)
        text = joint.join(phrases)
    if rng.random() < _AROUND:
        text = _pick(_BEFORE, rng) + text
    if rng.random() < _AROUND:
        text += _pick(_AFTER, rng)
    return text, plain


def words() -> list[str]:
    """Every word of careless prompts and of plain ones, and the signs."""
    texts = [*_PHRASES, *_JOINTS, *_BEFORE, *_AFTER, *_FILLERS, *COLOURS, *SHAPES, *_SYNONYMS]
    texts += [synonym for synonyms in _SYNONYMS.values() for synonym in synonyms]
    text = " ".join([*texts, "a an and of , rephrase : respectively"])
    for sign in "-+&,.!:":
        text = text.replace(sign, f" {sign} ")
    return list(dict.fromkeys(word for word in text.split() if "{" not in word))


def _phrase(pair: Pair, rng: np.random.Generator) -> str:
    colour, shape = (_other(word, rng) for word in pair)
    a = article(colour)
    wrong = "a" if a == "an" else "an"
    form, filler = _pick(_PHRASES, rng), _pick(_FILLERS, rng)
    return form.format(a="a" if "{filler}" in form else a, wrong=wrong, colour=colour, shape=shape, filler=filler)


def _colours_apart(pairs: Sequence[Pair], rng: np.random.Generator) -> str:
    """Two things, and their colours before or after both of them."""
    (one, first), (two, second) = (tuple(_other(word, rng) for word in pair) for pair in pairs)
    colours, shapes = f"{one} and {two}", f"{first} and {second}"
    return _pick((f"{colours} {shapes}", f"{shapes}, {colours}", f"{shapes}, {colours} respectively"), rng)


def _other(word: str, rng: np.random.Generator) -> str:
    """The word, or sometimes another one for the same."""
    return _pick(_SYNONYMS[word], rng) if rng.random() < _SYNONYM else word


def _pick(among: Sequence[str], rng: np.random.Generator) -> str:
    return among[int(rng.integers(len(among)))]
