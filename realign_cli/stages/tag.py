"""Image -> the kinds of things in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from realign_cli.stages.base import Item, Outcome

if TYPE_CHECKING:
    from realign_cli.errors import RecordError
    from realign_cli.records import Record
    from realign_cli.roles import Models


class Tag:
    """Recognises what each image shows; adds 'tags'."""

    name, needs_image = "tag", True
    requires: dict[str, str] = {}
    sections = ("tagger",)

    def __init__(self, models: Models) -> None:
        self._models = models

    def is_done(self, record: Record) -> bool:
        return record.tags is not None

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        tags = self._models.tagger.tag([item.image for item in items if item.image])
        return [Outcome({"tags": found}) for found in tags]
