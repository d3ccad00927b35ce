"""The loop stops when a caption is good, mends what was found, places it in other noise, and keeps the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from realign_cli.errors import RecordError
from realign_cli.records import Cost, Record, Tag, noise_seed
from realign_cli.roles import Detection, Request, ScoredObjects
from realign_cli.settings import Loop, Modulation, Regional, RegionControl
from realign_cli.stages.base import Item, Outcome
from realign_cli.stages.tries import KeepTrying

REGIONAL = Regional(step_fraction=0.5, dilation=0.0)
PAPER = Modulation(
    1.0, 0.3, 5.0, 0.3, clamp_lambda=True, splice_phrases=True, use_likelihood=True, only_phrase_tokens=False
)


class World:
    """All the roles. An image is a grey; its caption is the grey, and the reward of grey g is the cosine of g degrees.

    The generator gives each prompt the greys of its list one after the other, None for what it cannot make. The tagger
    sees what `seen` says, wherever it is asked.
    """

    steps = 7

    def __init__(self, greys: dict[str, list[int | None]], seen: Sequence[str] = ("cup",)) -> None:
        self.greys, self.seen = greys, seen
        self.requests: list[Request] = []
        self.batches: list[int] = []

    generator = captioner = text_encoder = tagger = scorer = detector = mask_model = property(lambda self: self)

    def generate(self, requests: Sequence[Request], control: RegionControl | None = None) -> list[object]:
        self.requests += requests
        self.batches.append(len(requests))
        greys = [self.greys[request.prompt].pop(0) for request in requests]
        return [RecordError("not_finite", "no numbers") if grey is None else picture(grey) for grey in greys]

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        return [str(image.getpixel((0, 0))[0]) for image in images]  # type: ignore[index]

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        angles = torch.tensor([float(text) if text.isdigit() else 0.0 for text in texts]).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], 1)

    def tag(self, images: Sequence[Image.Image]) -> list[list[Tag]]:
        return [[Tag(label=label, confidence=1.0) for label in self.seen] for _ in images]

    def score(self, prompts: Sequence[str], labels: Sequence[Sequence[str]]) -> list[ScoredObjects]:
        from realign_cli.records import Object

        return [
            ScoredObjects([Object(label=label, phrase=f"a {label}", likelihood=2.0) for label in own], "rules")
            for own in labels
        ]

    def detect(self, images: Sequence[Image.Image], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        return [[Detection(label, (0, 0, 2, 2), 1.0) for label in own] for own in labels]

    def masks(self, images: Sequence[Image.Image], boxes: Sequence[object]) -> list[object]:
        return [np.ones((len(own), 4, 4), bool) for own in boxes]  # type: ignore[arg-type]


def picture(grey: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (grey,) * 3)


def item(text: str, grey: int) -> Item:
    cost = Cost(passes=1, steps=7)
    return Item(Record(id=text.replace(" ", "-"), text=text, file_name="1.png", cost=cost), picture(grey))


def tried(
    world: World, *items: Item, tries: int = 4, mend: bool = True, control: RegionControl = REGIONAL
) -> list[Outcome]:
    stage = KeepTrying(world, control, Loop(tries=tries, good_enough=0.95, mend=mend))  # type: ignore[arg-type]
    outcomes = stage(items)
    assert all(isinstance(outcome, Outcome) for outcome in outcomes)
    return outcomes  # type: ignore[return-value]


def ended(outcome: Outcome) -> tuple[list[str], int, str]:
    tries = outcome.changes["tries"]
    return [one.how for one in tries.made], tries.kept, tries.stop


def grey(outcome: Outcome) -> int:
    assert outcome.image
    return int(outcome.image.getpixel((0, 0))[0])  # type: ignore[index, arg-type]


def test_a_good_image_costs_no_further_pass() -> None:
    world = World({})
    (outcome,) = tried(world, item("a cup", 10))
    assert ended(outcome) == (["draw"], 0, "good") and grey(outcome) == 10
    assert "cost" not in outcome.changes and world.requests == []


def test_what_was_found_is_mended_from_its_own_noise_and_then_placed_in_the_next() -> None:
    world = World({"a cup": [60, 70, 5]})
    given = item("a cup", 80)
    (outcome,) = tried(world, given)
    assert ended(outcome) == (["draw", "mend", "redraw", "redraw"], 3, "good") and grey(outcome) == 5
    own = given.record
    assert [request.noise_seed for request in world.requests] == [
        noise_seed(own),
        noise_seed(own.replace(id="a-cup-1")),  # as of generate --images-per-prompt
        noise_seed(own.replace(id="a-cup-2")),
    ]
    assert all([region.phrase for region in request.regions] == ["a cup"] for request in world.requests)
    assert outcome.changes["cost"] == Cost(passes=4, steps=28)
    assert outcome.changes["caption"].text == "5"
    made = outcome.changes["tries"].made
    assert [bool(one.objects) for one in made] == [False, True, True, True]


def test_where_something_is_missing_it_is_drawn_anew() -> None:
    world = World({"a cup and a vase": [60, 70]})
    (outcome,) = tried(world, item("a cup and a vase", 80), tries=3)
    assert ended(outcome) == (["draw", "draw", "draw"], 1, "exhausted") and grey(outcome) == 60
    assert not any(request.regions for request in world.requests)


def test_modulated_attention_mends_only_the_noise_that_it_knows() -> None:
    world = World({"a cup": [60, 70, 65]})
    (outcome,) = tried(world, item("a cup", 80), control=PAPER)
    assert ended(outcome)[0] == ["draw", "mend", "draw", "mend"]
    first, second, third = world.requests
    assert second.noise_seed == third.noise_seed != first.noise_seed


def test_without_mending_it_is_the_first_good_draw() -> None:
    world = World({"a cup": [60, 15, 5]})
    (outcome,) = tried(world, item("a cup", 80), mend=False)
    assert ended(outcome) == (["draw", "draw", "draw"], 2, "good") and grey(outcome) == 15


def test_the_earliest_of_the_best_is_kept() -> None:
    world = World({"a cup": [50, 60, 50]})
    (outcome,) = tried(world, item("a cup", 50))
    assert ended(outcome)[1:] == (0, "exhausted")


def test_each_round_is_one_batch_of_those_that_are_open() -> None:
    world = World({"a cup": [60, 5], "a vase": [8], "a jug": []}, seen=())
    outcomes = tried(world, item("a cup", 80), item("a vase", 70), item("a jug", 3))
    assert [grey(outcome) for outcome in outcomes] == [5, 8, 3] and world.batches == [2, 1]
    assert [outcome.changes["tries"].stop for outcome in outcomes] == ["good"] * 3


def test_what_cannot_be_made_is_told_and_costs_a_try() -> None:
    world = World({"a cup": [None, 60]}, seen=())
    (outcome,) = tried(world, item("a cup", 80), tries=3)
    assert ended(outcome) == (["draw", "draw", "draw"], 2, "exhausted")
    assert outcome.recovered and outcome.recovered.kind == "not_finite"
    assert outcome.changes["tries"].made[1].caption is None
