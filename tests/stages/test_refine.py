"""Refining regenerates what has a plan, leaves the rest alone, and with keep "best" never prefers a worse caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from realign_cli.errors import RecordError
from realign_cli.records import Cost, Mask, Object, Record, noise_seed
from realign_cli.settings import Modulation, Regional, RegionControl
from realign_cli.stages.base import Item, Outcome
from realign_cli.stages.refine import Refine
from realign_cli.stages.run_lengths import encode

if TYPE_CHECKING:
    from realign_cli.roles import Request

MODULATION = Modulation(
    cross_weight=1.0,
    self_weight=0.3,
    power=5.0,
    step_fraction=0.3,
    clamp_lambda=True,
    splice_phrases=True,
    use_likelihood=True,
    only_phrase_tokens=False,
)
REGIONAL = Regional(step_fraction=0.5, dilation=0.0)
MASK = encode(np.eye(4, dtype=bool))
CUP = Object(label="cup", phrase="a cup", likelihood=2.0, boxes=[], mask=MASK)


class Painter:
    """All the roles of refining: paints grey 9, captions an image by its grey, likes captions near the prompt."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    steps = 5
    generator = captioner = text_encoder = property(lambda self: self)

    def generate(self, requests: Sequence[Request], control: RegionControl | None = None) -> list[Image.Image]:
        assert control in (MODULATION, REGIONAL)
        self.requests += requests
        return [grey(9) for _ in requests]

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        return [str(image.getpixel((0, 0))[0]) for image in images]  # type: ignore[index]

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        angles = torch.tensor([float(text) / 10 for text in texts])
        return torch.stack([angles.cos(), angles.sin()], 1)


def grey(value: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (value,) * 3)


def item(text: str, *objects: Object) -> Item:
    return Item(Record(id="1", text=text, file_name="1.png", objects=list(objects)), grey(3))


def refine(keep: str, *items: Item) -> tuple[list[Outcome | RecordError], Painter]:
    painter = Painter()
    return Refine(painter, MODULATION, keep)(items), painter  # type: ignore[arg-type]


def kept(outcome: Outcome | RecordError) -> tuple[str, int]:
    assert isinstance(outcome, Outcome) and outcome.image is not None
    return outcome.changes["refine"].kept, outcome.image.getpixel((0, 0))[0]  # type: ignore[index]


def test_best_is_the_better_caption_and_coarse_on_a_tie() -> None:
    outcomes, _ = refine("best", item("8", CUP), item("2", CUP), item("6", CUP))
    assert [kept(outcome) for outcome in outcomes] == [("final", 9), ("coarse", 3), ("coarse", 3)]
    choice = outcomes[0].changes["refine"]  # type: ignore[union-attr]
    assert (choice.coarse.text, choice.final.text) == ("3", "9")
    assert choice.final.reward > choice.coarse.reward


def test_final_is_kept_without_captions() -> None:
    outcomes, _ = refine("final", item("2", CUP))
    assert kept(outcomes[0]) == ("final", 9)
    assert outcomes[0].changes["refine"].final is None  # type: ignore[union-attr]


def test_only_what_is_likely_described_and_found_is_a_region() -> None:
    unlikely = CUP.model_copy(update={"likelihood": 0.0})
    undescribed = CUP.model_copy(update={"phrase": ""})
    unfound = CUP.model_copy(update={"mask": None})
    outcomes, painter = refine("final", item("5", unlikely, CUP, undescribed), item("5", unlikely, unfound), item("5"))
    (request,) = painter.requests
    assert [(region.phrase, region.likelihood) for region in request.regions] == [("a cup", 2.0)]
    assert np.array_equal(request.regions[0].mask, np.eye(4, dtype=bool))
    assert request.noise_seed == noise_seed(item("5").record)
    assert [kept(outcome) for outcome in outcomes] == [("final", 9), ("coarse", 3), ("coarse", 3)]


def test_a_bad_mask_fails_its_record_alone() -> None:
    bad = CUP.model_copy(update={"mask": Mask(size=(9, 9), counts="x")})
    outcomes, _ = refine("best", item("8", bad), item("8", CUP))
    assert isinstance(outcomes[0], RecordError) and outcomes[0].kind == "bad_mask"
    assert kept(outcomes[1]) == ("final", 9)


def test_what_is_drawn_is_added_to_the_cost() -> None:
    """Also where the coarse image is kept; nothing, where nothing was drawn or nobody knows what was spent before."""
    spent = Cost(passes=4, steps=20)

    def known(one: Item) -> Item:
        return Item(one.record.replace(cost=spent), one.image)

    outcomes, _ = refine("best", known(item("8", CUP)), known(item("2", CUP)), known(item("5")), item("8", CUP))
    costs = [outcome.changes.get("cost") for outcome in outcomes]  # type: ignore[union-attr]
    assert costs == [Cost(passes=5, steps=25)] * 2 + [None] * 2


class Overflowing(Painter):
    """Can paint no vase."""

    def generate(  # type: ignore[override]
        self, requests: Sequence[Request], control: RegionControl | None = None
    ) -> list[Image.Image | RecordError]:
        return [RecordError("not_finite", "no numbers") if "vase" in one.prompt else grey(9) for one in requests]


def test_what_the_generator_cannot_make_fails_alone() -> None:
    stage = Refine(Overflowing(), MODULATION, "final")  # type: ignore[arg-type]
    made, failed = stage([item("a cup", CUP), item("a cup and a vase", CUP)])
    assert kept(made) == ("final", 9)
    assert isinstance(failed, RecordError) and failed.kind == "not_finite"


def test_regions_of_their_own_text_have_one_place_for_one_thing() -> None:
    """The best box's. Where the others are, nothing is to be; several things have all of their places."""
    mask = np.zeros((4, 16), bool)
    mask[:, :4] = mask[:, 10:] = True
    places = {"mask": encode(mask), "boxes": [(10, 0, 16, 4), (0, 0, 4, 4)]}
    one = Object(label="cup", phrase="a cup", likelihood=2.0, **places)
    two = Object(label="dog", phrase="two dogs", likelihood=2.0, **places)
    none = Object(label="vase", phrase="", likelihood=2.0, **places)
    wide = Item(Record(id="1", text="a cup and two dogs", objects=[one, two, none]), Image.new("RGB", (16, 4)))
    painter = Painter()
    (outcome,) = Refine(painter, REGIONAL, "final")([wide])  # type: ignore[arg-type]
    assert isinstance(outcome, Outcome)
    (request,) = painter.requests
    first, second = mask & (np.arange(16) >= 8), mask & (np.arange(16) < 8)
    assert [region.phrase for region in request.regions] == ["a cup", "", "two dogs"]
    for region, expected in zip(request.regions, (first, second, mask), strict=True):
        assert np.array_equal(region.mask, expected), region.phrase
