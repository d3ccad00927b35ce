"""A parser without a model: the noun phrases by which `rule_scorer` scores, with their heads and modifiers."""

from __future__ import annotations

from collections.abc import Sequence

from realign_cli.models.language.rule_scorer import noun_phrases
from realign_cli.roles import NounPhrase


class RuleParser:
    """A `roles.Parser` by rules: no weights, so `checkpoint` and `device` change nothing.

    Modifiers are the adjectives of a phrase and the nouns before its head: "cell" in "a cell phone". What is said of a
    thing elsewhere ("the cube is red") is not seen.
    """

    def __init__(self, checkpoint: str | None = None, *, device: object = None) -> None:
        del checkpoint, device

    def parse(self, prompts: Sequence[str]) -> list[tuple[NounPhrase, ...]]:
        return [
            tuple(
                NounPhrase((found.start, found.end), (found.head_start, found.end), found.modifiers)
                for found in noun_phrases(prompt)
            )
            for prompt in prompts
        ]
