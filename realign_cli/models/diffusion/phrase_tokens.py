"""Where the phrases of a prompt stand among its tokens: by the places of characters, for most words come twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from realign_cli.equations.binding import Binding

if TYPE_CHECKING:
    from realign_cli.equations.binding import Word
    from realign_cli.roles import NounPhrase, Span


@dataclass(frozen=True)
class PhraseTokens:
    """A noun phrase, the place of all its tokens, and those of its words."""

    text: str
    place: slice
    words: Binding


def phrase_tokens(tokenizer: Any, prompt: str, phrases: Sequence[NounPhrase]) -> tuple[list[PhraseTokens], list[str]]:
    """The phrases that a text encoder reads in full, in their order in the prompt, and the texts of the others.

    `tokenizer` is a fast one. Token 0 is BOS; what is beyond its `model_max_length`, EOS included, is not read.
    """
    found, cut = [], []
    for phrase in sorted(phrases, key=lambda phrase: (phrase.span, phrase.head)):
        text = prompt[slice(*phrase.span)]
        words = span_tokens(tokenizer, prompt, (phrase.span, phrase.head, *phrase.modifiers))
        if all(words):
            whole, head, *modifiers = words
            found.append(PhraseTokens(text, slice(whole[0], whole[-1] + 1), Binding(head, tuple(modifiers))))
        else:
            cut.append(text)
    return found, cut


def span_tokens(tokenizer: Any, prompt: str, spans: Sequence[Span]) -> list[Word]:
    """The tokens of each place of a prompt; none where it has none, or is not read in full. As of `phrase_tokens`."""
    offsets = tokenizer(prompt, return_offsets_mapping=True, verbose=False).offset_mapping
    last = min(len(offsets), tokenizer.model_max_length) - 1  # which is EOS
    found = []
    for start, end in spans:
        tokens = tuple(i for i, own in enumerate(offsets) if max(own[0], start) < min(own[1], end))
        found.append(tokens if max(tokens, default=last) < last else ())
    return found


def prompt_length(tokenizer: Any, prompt: str) -> int:
    """How many tokens of a prompt are read, BOS and EOS not among them."""
    return len(tokenizer(prompt, truncation=True).input_ids) - 2
