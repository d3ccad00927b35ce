"""The oracle accepts clean renders of a prompt, and nothing else: it is the known truth of every reported number."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from PIL import Image, ImageFilter

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.oracle import Oracle, parse, read
from realign_cli.tinyworld.scenes import GROUNDS, Scene, Thing, render

RED, BLUE = Thing("red", "circle", 16, 20, 11), Thing("blue", "square", 46, 42, 11)
BOTH = Scene((RED, BLUE), "white")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def picture(scene: Scene) -> Image.Image:
    return Image.fromarray(render(scene))


def judge(image: Image.Image, prompt: str) -> dict[str, float | None]:
    return {column: values[0] for column, values in Oracle().measure([image], [prompt]).items()}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_clean_held_out_renders(count: int) -> None:
    """Of 300 each at least 99 % are all correct, and none with the colours of two things swapped in the prompt."""
    drawn = list(islice(scenes.scenes(7, held_out=True, count=count), 300))
    images = [picture(scene) for scene in drawn]
    verdicts = Oracle().measure(images, [scene.caption for scene in drawn])
    assert np.mean(verdicts["all_correct"]) >= 0.99
    assert np.mean(verdicts["presence"]) >= 0.99 and np.mean(verdicts["binding"]) >= 0.99
    if count > 1:
        swapped = Oracle().measure(images, [_swapped(scene) for scene in drawn])
        assert not any(swapped["binding"]) and not any(swapped["all_correct"])
        assert np.mean(swapped["presence"]) >= 0.99  # the kinds are all there
    if count == 2:
        related = [i for i, scene in enumerate(drawn) if scene.relation]
        assert len(related) > 50
        assert np.mean([verdicts["relation"][i] for i in related]) >= 0.99  # type: ignore[misc]
        turned = [
            scenes.compose([t.phrase for t in drawn[i].things], OPPOSITE[str(drawn[i].relation)]) for i in related
        ]
        reverse = Oracle().measure([images[i] for i in related], turned)
        assert not any(reverse["relation"]) and not any(reverse["all_correct"])


def _swapped(scene: Scene) -> str:
    a, b, *rest = scene.things
    phrases = [Thing(b.colour, a.shape, 0, 0, 0).phrase, Thing(a.colour, b.shape, 0, 0, 0).phrase]
    return scenes.compose([*phrases, *(thing.phrase for thing in rest)], scene.relation)


def test_each_column_by_hand() -> None:
    def columns(prompt: str) -> tuple[float | None, ...]:
        verdict = judge(picture(BOTH), prompt)
        return tuple(verdict[name] for name in ("presence", "binding", "relation", "all_correct"))

    assert columns("a red circle and a blue square") == (1, 1, None, 1)
    assert columns("a blue square and a red circle") == (1, 1, None, 1)
    assert columns("A photo of a Red circle left of a blue square!") == (1, 1, 1, 1)
    assert columns("a blue square left of a red circle") == (1, 1, 0, 0)
    assert columns("a blue circle and a red square") == (1, 0, None, 0)
    assert columns("a red circle and a blue ring") == (0, 0, None, 0)
    assert columns("a red circle above a blue ring") == (0, 0, 0, 0)
    assert columns("a red circle") == (1, 1, None, 0)  # there is one thing too many
    assert columns("a red circle, a blue square and a red ring") == (0, 0, None, 0)
    assert columns("a circle and a square") == (1, 1, None, 1)
    assert columns("a castle") == (0, 0, None, 0)


def test_two_of_a_kind_are_counted() -> None:
    scene = Scene((RED, BLUE, Thing("red", "circle", 16, 48, 9)), "white")
    assert [thing.shape for thing in read(picture(scene))].count("circle") == 2
    assert judge(picture(scene), "a red circle and a blue square")["all_correct"] == 0


def test_place_colour_and_kind() -> None:
    seen = {thing.colour: thing for thing in read(picture(BOTH))}
    for thing in BOTH.things:
        found = seen[thing.colour]
        assert found.shape == thing.shape
        assert abs(found.x - thing.x) < 1 and abs(found.y - thing.y) < 1


@pytest.mark.parametrize("ground", GROUNDS)
def test_junk_is_nothing(ground: str) -> None:
    rng = np.random.default_rng(0)
    plain = picture(Scene((), ground))
    smear = picture(Scene((RED, BLUE), ground)).filter(ImageFilter.GaussianBlur(12))
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    full = Image.new("RGB", (64, 64), scenes.COLOURS["red"])
    bar = plain.copy()
    bar.paste(scenes.COLOURS["blue"], (4, 28, 60, 34))
    corner = plain.copy()
    for box in ((16, 16, 24, 48), (16, 40, 48, 48)):
        corner.paste(scenes.COLOURS["red"], box)
    for junk in (plain, smear, noise, ramp, full, bar, corner):
        assert judge(junk, "a red circle and a blue square")["all_correct"] == 0
        assert judge(junk, "a red circle")["all_correct"] == 0
    assert read(plain) == read(full) == []
    assert [(thing.colour, thing.shape) for thing in read(bar) + read(corner)] == [("blue", None), ("red", None)]


def test_any_size_and_mode() -> None:
    for image in (picture(BOTH).resize((512, 512)), picture(BOTH).convert("RGBA"), picture(BOTH).resize((96, 128))):
        assert judge(image, "a red circle left of a blue square")["binding"] == 1


def test_prompts() -> None:
    asked = parse("a red circle, an orange ring and a cross")
    assert asked.pairs == (("red", "circle"), ("orange", "ring"), (None, "cross")) and asked.relation is None
    assert parse("a red circle right of a blue ring").relation == "right of"
    assert parse("a spring in a squared circular bluered thing").pairs == ()
    assert Oracle().measure([], []) == {"presence": [], "binding": [], "relation": [], "all_correct": []}
