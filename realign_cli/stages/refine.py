"""Record with objects and masks -> the image once more, from the same noise, with attention that minds the masks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from realign_cli.errors import RecordError
from realign_cli.pictures import strip
from realign_cli.records import Cost, Record, Refinement, noise_seed
from realign_cli.roles import Models, Region, Request
from realign_cli.settings import Regional, RegionControl
from realign_cli.stages import maps
from realign_cli.stages.base import Item, Outcome
from realign_cli.stages.caption_reward import CaptionReward, captions
from realign_cli.stages.run_lengths import decode

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from realign_cli.records import Box
    from realign_cli.roles import NounPhrase

log = logging.getLogger(__name__)
Keep = Literal["best", "final"]
_OF_ONE = ("a", "an", "one")  # how a phrase begins that speaks of one thing
_MARGIN = 1  # pixels around a box


@dataclass(frozen=True)
class _Plan:
    """By what an image is regenerated. With maps, of which phrases, and those of the coarse image."""

    regions: tuple[Region, ...]
    phrases: tuple[NounPhrase, ...]
    before: maps.Maps


class Refine:
    """Regenerates each image whose objects were found; one with nothing to go by stays as it is.

    `control` says how the masks are minded: by modulated attention, Eq. 7-9, or by texts of the regions' own.
    `keep` "best" keeps whichever of coarse and final has the higher caption reward, the coarse image where they tie:
    a wrong plan cannot make an image worse than it was by that measure. "final" keeps every regenerated image.
    With `map_words` the attention maps of the noun phrases, and of such words besides, are kept of each image that is
    regenerated, with those that lie beside the coarse one; 'maps' says how much of them lies in the masks.
    """

    name, needs_image = "refine", True
    requires = {"objects": "score"}
    sections: tuple[str, ...] = (
        "generator",
        "refine",
        *CaptionReward.sections,
    )  # at most, beside the numbers of a method

    def __init__(
        self, models: Models, control: RegionControl, keep: Keep, map_words: Sequence[str] | None = None
    ) -> None:
        self._models, self._control, self._keep, self._map_words = models, control, keep, map_words
        self._told = False  # that there are no maps of before
        captioner = CaptionReward.sections if keep == "best" else ()  # else no image is captioned
        parser = () if map_words is None else ("parser",)
        self.sections = ("generator", "refine", control.section, *captioner, *parser)

    def is_done(self, record: Record) -> bool:
        return record.refine is not None

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        images = [item.image for item in items if item.image]
        none: list[tuple[NounPhrase, ...]] = [()] * len(items)
        mapping = self._map_words is not None
        phrases = self._models.parser.parse([item.record.text for item in items]) if mapping else none
        plans = [self._plan(*each) for each in zip(items, images, phrases, strict=True)]
        planned = {i: plan for i, plan in enumerate(plans) if isinstance(plan, _Plan) and plan.regions}
        finals = {}
        for i, made in self._regenerate(items, planned).items():
            if isinstance(made, RecordError):
                plans[i] = made
            else:
                finals[i] = made
        choices = self._choose(items, images, finals)
        return [
            plan
            if isinstance(plan, RecordError)
            else self._outcome(item.record, image, plan, finals.get(i), choices.get(i, Refinement(kept="coarse")))
            for i, (item, image, plan) in enumerate(zip(items, images, plans, strict=True))
        ]

    def _outcome(self, record: Record, coarse: Image, plan: _Plan, final: Image | None, choice: Refinement) -> Outcome:
        """Of an image that was regenerated, or has no `final`."""
        kept = final if final and choice.kept == "final" else coarse
        draw = partial(strip, record.text, coarse, plan.regions, final or coarse, choice.kept)
        outcome = Outcome({"refine": choice}, image=kept, pictures={"strip": draw})
        if final and record.cost:  # else what was spent before is not known
            cost = record.cost + Cost(passes=1, steps=self._models.steps)
            outcome = replace(outcome, changes={**outcome.changes, "cost": cost})
        return _with_maps(outcome, record.text, plan, coarse, final) if final else outcome

    def _plan(self, item: Item, image: Image, phrases: tuple[NounPhrase, ...]) -> _Plan | RecordError:
        try:
            found = regions(item.record, image, self._control)
            before = item.maps() if found and self._map_words is not None else {}
        except RecordError as error:
            return error
        if found and self._map_words is not None and not before and not self._told:
            self._told = True
            log.warning(
                "record %s: no attention maps lie beside its coarse image, so that there are none of before; 'realign "
                "generate --maps' keeps them. This is said of the first record only",
                item.record.id,
            )
        return _Plan(found, phrases, before)

    def _regenerate(self, items: Sequence[Item], plans: Mapping[int, _Plan]) -> dict[int, Image | RecordError]:
        requests = []
        for i, plan in plans.items():
            record = items[i].record
            mapped = () if self._map_words is None else maps.places(record.text, plan.phrases, self._map_words)
            requests.append(Request(record.text, noise_seed(record), plan.regions, record.id, mapped=mapped))
        images = self._models.generator.generate(requests, self._control) if requests else []
        return dict(zip(plans, images, strict=True))

    def _choose(
        self, items: Sequence[Item], images: Sequence[Image], finals: Mapping[int, Image]
    ) -> dict[int, Refinement]:
        if self._keep == "final" or not finals:
            return {i: Refinement(kept="final") for i in finals}
        prompts = [items[i].record.text for i in finals]
        before = captions(self._models, [images[i] for i in finals], prompts)
        after = captions(self._models, list(finals.values()), prompts)
        return {
            i: Refinement(kept="final" if new.reward > old.reward else "coarse", coarse=old, final=new)
            for i, old, new in zip(finals, before, after, strict=True)
        }


def _with_maps(outcome: Outcome, prompt: str, plan: _Plan, coarse: Image, final: Image) -> Outcome:
    """With the maps of an image that was regenerated, if it has any, and what they say of its masks."""
    after = maps.maps_of(prompt, final)
    if not after:
        return outcome
    before = {name: plan.before[name] for name in after if name in plan.before}
    rows = [("coarse", coarse, before), ("refined", final, after)]
    draw = partial(maps.picture, prompt, rows if before else rows[1:], plan.phrases, plan.regions)
    changes = {"maps": maps.shares(prompt, plan.phrases, plan.regions, before, after)}
    return replace(
        outcome,
        changes={**outcome.changes, **changes},
        pictures={**outcome.pictures, "maps": draw},
        maps=maps.both(before, after),
    )


def regions(record: Record, image: Image, control: RegionControl) -> tuple[Region, ...]:
    """The objects of a record that may appear (Eq. 6), have words in the prompt, and were found.

    With regions of their own text, a phrase of one thing has one place, that of the best box; in its other places
    nothing is to be.

    Raises:
        RecordError: a mask is not of this image.
    """
    wanted = [one for one in record.objects or [] if one.likelihood > 0 and one.phrase and one.mask]
    found = []
    for one in wanted:
        assert one.mask
        mask = decode(one.mask, image)
        found.append(Region(one.phrase, one.likelihood, mask))
        boxes = one.boxes or []
        if isinstance(control, Regional) and len(boxes) > 1 and one.phrase.lower().split()[0] in _OF_ONE:
            place = mask & _inside(boxes[0], mask.shape)
            found[-1:] = [Region(one.phrase, one.likelihood, place), Region("", one.likelihood, mask & ~place)]
    return tuple(region for region in found if region.mask.any())


def _inside(box: Box, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels in a box and just around it, bool (H, W)."""
    x0, y0, x1, y1 = box
    inside = np.zeros(shape, bool)
    inside[max(0, y0 - _MARGIN) : y1 + _MARGIN, max(0, x0 - _MARGIN) : x1 + _MARGIN] = True
    return inside
