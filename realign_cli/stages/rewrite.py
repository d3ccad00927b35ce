"""Prompt -> what the generator draws in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from realign_cli.errors import RecordError
from realign_cli.stages.base import Item, Outcome

if TYPE_CHECKING:
    from realign_cli.records import Record
    from realign_cli.roles import Models


class Rewrite:
    """Rewrites each prompt for the generator; adds 'rewritten' and leaves 'text' alone."""

    name, needs_image = "rewrite", False
    requires: dict[str, str] = {}
    sections = ("rewriter",)

    def __init__(self, models: Models) -> None:
        self._models = models

    def is_done(self, record: Record) -> bool:
        return record.rewritten is not None

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        texts = [item.record.text for item in items]
        return [
            _outcome(text, rewritten)
            for text, rewritten in zip(texts, self._models.rewriter.rewrite(texts), strict=True)
        ]


def _outcome(text: str, rewritten: str) -> Outcome:
    if rewritten:
        return Outcome({"rewritten": rewritten})
    error = RecordError("no_rewriting", "the rewriter found none; the prompt is drawn as it is")
    return Outcome({"rewritten": text}, recovered=error)
