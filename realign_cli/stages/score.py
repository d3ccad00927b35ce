"""Prompt and tags -> which tags belong, how likely (Eq. 6), and which words of the prompt describe them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from realign_cli.stages.base import Item, Outcome

if TYPE_CHECKING:
    from realign_cli.errors import RecordError
    from realign_cli.records import Record
    from realign_cli.roles import Models


class Score:
    """Binds each tag to the prompt; adds 'objects' and 'scorer'."""

    name, needs_image = "score", False
    requires = {"tags": "tag"}
    sections = ("scorer",)

    def __init__(self, models: Models) -> None:
        self._models = models

    def is_done(self, record: Record) -> bool:
        return record.objects is not None

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        prompts = [item.record.text for item in items]
        labels = [[tag.label for tag in item.record.tags or []] for item in items]
        return [
            Outcome({"objects": one.objects, "scorer": one.scorer}, recovered=one.recovered)
            for one in self._models.scorer.score(prompts, labels)
        ]
