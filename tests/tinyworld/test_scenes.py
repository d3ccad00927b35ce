"""Scenes are repeatable, legible and true to their captions, and what is held out never reaches training."""

from __future__ import annotations

from itertools import combinations, islice

import numpy as np
import pytest

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.oracle import parse
from realign_cli.tinyworld.scenes import COLOURS, HELD_OUT_PAIRS, SHAPES, Scene, Thing, is_held_out, mask, render

DRAWN = {held_out: list(islice(scenes.scenes(0, held_out=held_out), 400)) for held_out in (False, True)}
EVERY = DRAWN[False] + DRAWN[True]


def together(scene: Scene) -> list[tuple[scenes.Pair, scenes.Pair]]:
    return list(combinations([thing.pair for thing in scene.things], 2))


def test_the_same_seed_draws_the_same_scenes() -> None:
    assert list(islice(scenes.scenes(0), 20)) == DRAWN[False][:20]
    assert list(islice(scenes.scenes(1), 20)) != DRAWN[False][:20]


def test_training_never_sees_what_is_held_out() -> None:
    for scene in EVERY:
        assert not HELD_OUT_PAIRS & {thing.pair for thing in scene.things}
    assert not any(is_held_out(a, b) for scene in DRAWN[False] for a, b in together(scene))
    assert all(any(is_held_out(a, b) for a, b in together(s)) for s in DRAWN[True] if len(s.things) > 1)


def test_held_out_combinations_are_symmetric_and_somewhat_over_half() -> None:
    pairs = [(a, b) for a, b in combinations(scenes.all_pairs(), 2) if scenes.compatible(a, b)]
    assert all(is_held_out(a, b) == is_held_out(b, a) for a, b in pairs)
    assert 0.5 < np.mean([is_held_out(a, b) for a, b in pairs]) < 0.6


def test_held_out_prompts() -> None:
    prompts = scenes.held_out_prompts()
    assert prompts == scenes.held_out_prompts() and len(set(prompts)) == len(prompts)
    for prompt in prompts:
        (a, b), _ = parse(prompt).pairs, parse(prompt).relation
        assert is_held_out(a, b) and not HELD_OUT_PAIRS & {a, b}  # type: ignore[arg-type]
        assert scenes.compose([_phrase(b), _phrase(a)]) in prompts


def _phrase(pair: tuple[str | None, str]) -> str:
    return f"{scenes.article(str(pair[0]))} {pair[0]} {pair[1]}"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_things_differ_and_do_not_touch(count: int) -> None:
    drawn = [scene for scene in EVERY if len(scene.things) == count]
    assert len(drawn) > 100
    for scene in drawn:
        assert len({thing.colour for thing in scene.things}) == len({thing.shape for thing in scene.things}) == count
        masks = [mask(thing) > 0 for thing in scene.things]
        assert np.sum(masks, axis=0).max() == 1
        edge = np.any(masks, axis=0)
        assert not (edge[0].any() or edge[-1].any() or edge[:, 0].any() or edge[:, -1].any())


def test_caption_by_hand() -> None:
    things = (Thing("red", "circle", 18, 20, 9), Thing("orange", "ring", 45, 42, 9), Thing("blue", "cross", 18, 45, 9))
    assert Scene(things[:1], "white").caption == "a red circle"
    assert Scene(things[:2], "white").caption == "a red circle and an orange ring"
    assert Scene(things[:2], "white", "above").caption == "a red circle above an orange ring"
    assert Scene(things, "white").caption == "a red circle, an orange ring and a blue cross"


def test_relations_are_plain_to_see() -> None:
    related = [scene for scene in EVERY if scene.relation]
    assert {scene.relation for scene in related} == set(scenes.RELATIONS)
    for scene in related:
        a, b = scene.things
        gap = {"left of": b.x - a.x, "right of": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}[str(scene.relation)]
        assert gap >= 6


@pytest.mark.parametrize("shape", SHAPES)
def test_render_paints_the_mask(shape: str) -> None:
    thing = Thing("yellow", shape, 30.5, 33, 11)
    image, covered = render(Scene((thing,), "black")), mask(thing)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert np.all(image[covered == 1] == COLOURS["yellow"])
    assert np.all(image[covered == 0] == scenes.GROUNDS["black"])
    for indices, centre in zip(np.nonzero(covered), (thing.y, thing.x), strict=True):
        assert abs((indices.min() + indices.max() + 1) / 2 - centre) <= 1
    assert (covered[32, 30] == 0) == (shape == "ring")


def test_careless_captions() -> None:
    rng = np.random.default_rng(0)
    for scene in DRAWN[False]:
        true = [thing.pair for thing in scene.things]
        assert scenes.corrupt(scene, rng, swap=0, drop=0) == scene.caption
        swapped = parse(scenes.corrupt(scene, rng, swap=1, drop=0)).pairs
        assert not HELD_OUT_PAIRS & set(swapped)
        assert [shape for _, shape in swapped] == [shape for _, shape in true]
        assert sorted(str(colour) for colour, _ in swapped) == sorted(colour for colour, _ in true)
        assert sum(a != b for a, b in zip(swapped, true, strict=True)) in (0, 2)
        dropped = parse(scenes.corrupt(scene, rng, swap=0, drop=1)).pairs
        lost = [a for a, b in zip(dropped, true, strict=True) if a != b]
        assert len(lost) == 1 and lost[0][0] is None
    some = [scenes.corrupt(scene, rng, swap=0.25, drop=0.25) == scene.caption for scene in DRAWN[False]]
    assert 0.4 < np.mean(some) < 0.7


def test_every_caption_is_made_of_the_world_s_words() -> None:
    known = set(scenes.words())
    for scene in EVERY:
        assert known >= set(scene.caption.replace(",", " ,").split())
