"""Coarse image -> further tries, mended or drawn anew, until a caption says that one is good -> the best of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from realign_cli.errors import RecordError
from realign_cli.pictures import Tile, row
from realign_cli.records import Caption, Cost, Object, Record, Tries, Try, noise_seed
from realign_cli.roles import Models, Region, Request
from realign_cli.settings import Loop, Regional, RegionControl
from realign_cli.stages.base import Item, Outcome, Stage, through
from realign_cli.stages.caption_reward import CaptionReward, captions
from realign_cli.stages.refine import Refine, regions
from realign_cli.stages.score import Score
from realign_cli.stages.segment import Segment
from realign_cli.stages.tag import Tag

if TYPE_CHECKING:
    from PIL.Image import Image

How = Literal["draw", "mend", "redraw"]
_BEGINS_A_THING = re.compile(r"\b(an?|one|two|three|four|five|six|several|some|\d+)\b", re.IGNORECASE)


class KeepTrying:
    """Draws, verifies, mends, and only then draws again.

    Where the best image of a prompt earns less than `good_enough`, another is made. In a drawn image the objects are
    found. If that is all that the prompt asks for, the image is mended: made again from its own noise, with control by
    the objects. If that does not do, the same objects are placed in the next noise, where the control can place them.
    Else there is a new draw by the text alone. The noises are those of `generate --images-per-prompt`. Each round makes
    one image of every prompt that is still open.
    """

    name, needs_image = "tries", True
    requires: dict[str, str] = {}

    def __init__(self, models: Models, control: RegionControl, loop: Loop) -> None:
        self._models, self._control, self._loop = models, control, loop
        self._finding: tuple[Stage, ...] = (Tag(models), Score(models), Segment(models)) if loop.mend else ()
        mending = Refine(models, control, "final").sections if loop.mend else ("generator",)
        finding = (section for stage in self._finding for section in stage.sections)
        self.sections: tuple[str, ...] = ("loop", *mending, *finding, *CaptionReward.sections)

    def is_done(self, record: Record) -> bool:
        return record.tries is not None

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        prompts = [_Prompt(item.record) for item in items]
        self._verify(prompts, [item.image for item in items if item.image])
        for _ in range(self._loop.tries - 1):
            left = [prompt for prompt in prompts if prompt.best.reward < self._loop.good_enough]
            if not left:
                break
            self._find([prompt for prompt in left if prompt.tries[-1].how == "draw"])
            requests = [prompt.next(placing=isinstance(self._control, Regional)) for prompt in left]
            self._verify(left, self._models.generator.generate(requests, self._control))
        return [prompt.outcome(self._loop, self._models.steps) for prompt in prompts]

    def _verify(self, prompts: Sequence[_Prompt], images: Sequence[Image | RecordError]) -> None:
        """Caption the new images of prompts, and reward the captions."""
        made: list[tuple[_Prompt, Image]] = []
        for prompt, image in zip(prompts, images, strict=True):
            if isinstance(image, RecordError):
                prompt.error = image
            else:
                prompt.tries[-1].image = image
                made.append((prompt, image))
        said = captions(self._models, [image for _, image in made], [prompt.record.text for prompt, _ in made])
        for (prompt, _), caption in zip(made, said, strict=True):
            prompt.tries[-1].caption = caption

    def _find(self, prompts: Sequence[_Prompt]) -> None:
        """Find the objects of the last images of prompts."""
        seen = [(prompt, image) for prompt in prompts if (image := prompt.tries[-1].image)]
        found = through(self._finding, [Item(prompt.record, image) for prompt, image in seen]) if self._finding else []
        for (prompt, image), (record, error) in zip(seen, found, strict=False):
            prompt.error = error or prompt.error
            prompt.objects, prompt.regions = record.objects, regions(record, image, self._control)


@dataclass
class _Try:
    """An image, and what it was made by."""

    how: How
    objects: list[Object] | None = None
    image: Image | None = None
    caption: Caption | None = None

    @property
    def reward(self) -> float:
        return self.caption.reward if self.caption else -math.inf


@dataclass
class _Prompt:
    """A prompt and its tries; the objects and regions are those of its last draw."""

    record: Record
    tries: list[_Try] = field(default_factory=lambda: [_Try("draw")])
    objects: list[Object] | None = None
    regions: tuple[Region, ...] = ()
    error: RecordError | None = None
    noises: int = 1

    @property
    def best(self) -> _Try:
        """The earliest of the best."""
        return max(self.tries, key=lambda one: one.reward)

    def next(self, *, placing: bool) -> Request:
        """The image to be tried next; `placing` is whether objects can be placed in any noise."""
        drawn = self.tries[-1].how == "draw"
        if not (self._all_found() and (drawn or placing)):
            self.objects, self.regions = None, ()
            return self._try("draw")
        return self._try("mend" if drawn else "redraw")

    def _try(self, how: How) -> Request:
        self.noises += how != "mend"
        self.tries.append(_Try(how, self.objects))
        name = self.record.prompt_key if self.noises == 1 else f"{self.record.prompt_key}-{self.noises - 1}"
        prompt = self.record.text if self.regions else self.record.drawn  # phrases of regions are words of the text
        return Request(prompt, noise_seed(self.record.replace(id=name)), self.regions, self.record.id)

    def _all_found(self) -> bool:
        """Whether there are regions, and their phrases leave no word of the prompt that another thing begins with."""
        rest = self.record.text
        for phrase in sorted((region.phrase for region in self.regions), key=len, reverse=True):
            rest = rest.replace(phrase, " ", 1) if phrase else rest
        return bool(self.regions) and not _BEGINS_A_THING.search(rest)

    def outcome(self, loop: Loop, steps: int | None) -> Outcome:
        best = self.best
        stop: Literal["good", "exhausted"] = "good" if best.reward >= loop.good_enough else "exhausted"
        made = [_as_record(one) for one in self.tries]
        changes: dict[str, object] = {"tries": Tries(made=made, kept=self.tries.index(best), stop=stop)}
        if best.caption:
            changes["caption"] = best.caption
        if self.record.cost and len(made) > 1:
            further = len(made) - 1
            changes["cost"] = self.record.cost + Cost(passes=further, steps=further * steps if steps else None)
        shown = [Tile(one.image, _title(one), one is best) for one in self.tries if one.image]
        draw = partial(row, self.record.text, shown, loop.tries)
        return Outcome(changes, image=best.image, pictures={"strip": draw}, recovered=self.error)


def _as_record(one: _Try) -> Try:
    made = Try(how=one.how)
    if one.caption:
        made = made.model_copy(update={"caption": one.caption})
    return made.model_copy(update={"objects": one.objects}) if one.objects else made


def _title(one: _Try) -> str:
    return f"{one.how}  {one.caption.reward:.2f}  {one.caption.text}" if one.caption else one.how
