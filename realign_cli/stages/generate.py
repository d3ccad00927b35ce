"""Prompt -> coarse image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from realign_cli.errors import RecordError, UsageError
from realign_cli.records import Cost, Record, noise_seed
from realign_cli.roles import EXTRA_STEPS, Models, NounPhrase, Request
from realign_cli.settings import Structure
from realign_cli.stages import maps
from realign_cli.stages.base import Item, Outcome

if TYPE_CHECKING:
    from PIL.Image import Image

    from realign_cli.settings import PhraseControl


class Generate:
    """Draws the image of each prompt, as it was rewritten if it was, from its own noise; adds 'file_name' and 'cost'.

    With `control` the noun phrases of the prompt are minded by that method; 'method' and 'phrases' say so. With
    `map_words` the attention maps of the noun phrases, and of such words besides, are kept.

    Raises:
        UsageError: the method has no such maps.
    """

    name, needs_image = "generate", False
    requires: dict[str, str] = {}
    sections: tuple[str, ...] = ("generator",)  # at least; those of a method come to it

    def __init__(
        self, models: Models, control: PhraseControl | None = None, map_words: Sequence[str] | None = None
    ) -> None:
        self._models, self._control, self._map_words = models, control, map_words
        if control:
            self.sections = ("generator", "generate", "parser", control.section)
        elif map_words is not None:
            self.sections = ("generator", "parser")
        if map_words is not None and isinstance(control, Structure) and control.form == "conjunction":
            raise UsageError(
                "structure.form=conjunction reads several texts at once, of which there is no one attention map: "
                "leave out --maps, or --set structure.form=default"
            )

    def is_done(self, record: Record) -> bool:
        return bool(record.file_name)

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        records = [item.record for item in items]
        none: list[tuple[NounPhrase, ...]] = [()] * len(records)
        parsing = self._control is not None or self._map_words is not None
        phrases = self._models.parser.parse([record.drawn for record in records]) if parsing else none
        requests = [
            Request(
                record.drawn,
                noise_seed(record),
                record=record.id,
                phrases=own if self._control else (),
                mapped=() if self._map_words is None else maps.places(record.drawn, own, self._map_words),
            )
            for record, own in zip(records, phrases, strict=True)
        ]
        images = self._models.generator.generate(requests, self._control)
        return [
            made if isinstance(made, RecordError) else self._outcome(request, made)
            for request, made in zip(requests, images, strict=True)
        ]

    def _outcome(self, request: Request, image: Image) -> Outcome:
        kept = maps.maps_of(request.prompt, image)
        draw = partial(maps.picture, request.prompt, [("", image, kept)])
        return Outcome(self._changes(request, image), image, {"maps": draw} if kept else {}, kept)

    def _changes(self, request: Request, image: Image) -> dict[str, Any]:
        cost = _cost(image, self._models.steps)
        if self._control is None:
            return {"cost": cost}
        phrases = [request.prompt[slice(*phrase.span)] for phrase in request.phrases]
        return {"method": self._control.section, "phrases": phrases, "cost": cost}


def _cost(image: Image, steps: int | None) -> Cost:
    """What one image took: one pass, and the part of another that its work beside the steps would be."""
    extra = image.info.get(EXTRA_STEPS, 0)
    return Cost(passes=1 + extra / steps, steps=steps + extra) if steps and extra else Cost(passes=1, steps=steps)
