"""The rewards that are a number and no gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realign_cli import presets
from realign_cli.registry import Models
from realign_cli.tinyworld.scenes import Scene, Thing, render

Pair = tuple[str, str]
RED, BLUE, GREEN = ("red", "circle"), ("blue", "square"), ("green", "circle")
PROMPT = "a red circle and a blue square"


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(presets.load("tiny"), "cpu")


def pixels(*pairs: Pair) -> torch.Tensor:
    """A rendered scene with a thing in each corner, as one image (1, 3, 64, 64)."""
    corners = [(18, 18), (46, 46), (46, 18), (18, 46)]
    things = tuple(Thing(*pair, x, y, 9) for pair, (x, y) in zip(pairs, corners, strict=False))
    return torch.from_numpy(np.array(render(Scene(things, "white")))).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize(
    ("things", "prompt", "reward"),
    [
        ((RED, BLUE), PROMPT, 0.0),
        ((RED, BLUE, RED), PROMPT, -0.5),
        ((RED,), PROMPT, -0.5),
        ((RED, GREEN), "a red circle and a green circle", 0.0),
        ((RED,), "a red circle and a green circle", -1.0),
        ((RED, GREEN, BLUE), "two circle and the square", 0.0),
        ((BLUE,), "the circle", -1.0),
        ((BLUE,), "nothing at all", 0.0),
    ],
)
def test_things_are_counted_by_kind(models: Models, things: tuple[Pair, ...], prompt: str, reward: float):
    assert models.reward("count")(pixels(*things), [prompt], 0).tolist() == [pytest.approx(reward)]


def test_a_column_of_a_metric(models: Models):
    """The matching probability, as the metric itself has it."""
    both = torch.cat([pixels(RED, BLUE), pixels(BLUE, RED)])
    prompts = [PROMPT, "a blue circle and a red square"]
    right, wrong = models.reward("itm")(both, prompts, 0).tolist()
    assert right > 0.9 > 0.1 > wrong
