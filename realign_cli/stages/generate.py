"""Prompt -> coarse image."""

from __future__ import annotations

from collections.abc import Sequence

from realign_cli.errors import RecordError
from realign_cli.records import Cost, Record, noise_seed
from realign_cli.roles import Models, Request
from realign_cli.stages.base import Item, Outcome


class Generate:
    """Draws the image of each prompt from its own noise; adds 'file_name' and 'cost'."""

    name, needs_image = "generate", False
    requires: dict[str, str] = {}
    sections = ("generator",)

    def __init__(self, models: Models) -> None:
        self._models = models

    def is_done(self, record: Record) -> bool:
        return bool(record.file_name)

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        cost = Cost(passes=1, steps=self._models.steps)
        requests = [Request(item.record.text, noise_seed(item.record), record=item.record.id) for item in items]
        return [
            made if isinstance(made, RecordError) else Outcome({"cost": cost}, image=made)
            for made in self._models.generator.generate(requests)
        ]
