"""A parser with spaCy, as the authors of SynGen use it: pip install 'realign[spacy]', and one of spaCy's models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from realign_cli.errors import UsageError
from realign_cli.roles import NounPhrase

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

# How a modifier hangs on its noun (Rassin et al., 2023, section 3.1).
_MODIFIES = {"amod", "nmod", "compound", "npadvmod", "advmod", "acomp"}


class SpacyParser:
    """A `roles.Parser` by a dependency parse.

    Args:
        checkpoint: the name of an installed model, such as en_core_web_trf.
        device: of no effect: it runs on the CPU.

    Raises:
        UsageError: spaCy or the model is not installed.
    """

    def __init__(self, checkpoint: str, *, device: object = None) -> None:
        del device
        try:
            import spacy
        except ImportError:
            raise UsageError("the parser needs spaCy: pip install 'realign[spacy]'") from None
        try:
            self._parse = spacy.load(checkpoint)
        except OSError:
            raise UsageError(f"parser {checkpoint}: not installed; python -m spacy download {checkpoint}") from None

    def parse(self, prompts: Sequence[str]) -> list[tuple[NounPhrase, ...]]:
        return [phrases(doc) for doc in self._parse.pipe(prompts)]


def phrases(doc: Doc) -> tuple[NounPhrase, ...]:
    """The noun chunks of a parse, each with what modifies its head, wherever that stands: "the dog is red"."""
    return tuple(
        NounPhrase(
            (chunk.start_char, chunk.end_char),
            _span(chunk.root),
            tuple(_span(token) for token in sorted(_modifiers(chunk.root), key=lambda token: token.i)),
        )
        for chunk in doc.noun_chunks
        if chunk.root.pos_ in ("NOUN", "PROPN")
    )


def _modifiers(noun: Token) -> Iterator[Token]:
    """What modifies a noun, and what modifies or is joined to that; and what a verb "to be" says of the noun."""
    waiting = [token for token in noun.children if token.dep_ in _MODIFIES]
    if noun.dep_ == "nsubj" and noun.head.pos_ == "AUX":
        waiting += [token for token in noun.head.children if token.dep_ in _MODIFIES]
    for token in waiting:  # which grows on the way
        waiting += [child for child in token.children if child.dep_ in _MODIFIES | {"conj"}]
        yield token


def _span(token: Token) -> tuple[int, int]:
    return token.idx, token.idx + len(token.text)
